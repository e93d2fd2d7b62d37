package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// writeUnjudgeable leaves an entry in a host's log that only a later version can judge.
func writeUnjudgeable(t *testing.T, config Config) {
	t.Helper()
	cfg := config.storeConfig(slog.New(slog.DiscardHandler))
	links := raftstoretest.NewNetwork()
	cfg.Raft, cfg.RPC = links.Listen("raft", cfg.Addr), links.Listen("rpc", cfg.Addr)
	cfg.Constraints = append(cfg.Constraints, raftstore.Constraint{
		Name: "future", Version: 1, Check: func(raftstore.View, *raftstore.Txn, []byte) error { return nil },
	})
	s, err := raftstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, s)
	if _, err := s.Commit(t.Context(), raftstore.Txn{Constraints: []raftstore.ConstraintCall{{Name: "future", Version: 1}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// An agent whose replica fails at every start does not end, to be started again for ever:
// it says why it does nothing, until somebody helps.
func TestAnUnusableCopyKeepsTheAgentWaiting(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	shutdown(found(t, path, config))
	writeUnjudgeable(t, config)

	m := newMember(config, testOptions())
	t.Cleanup(func() { shutdown(m) })
	started := make(chan error, 1)
	go func() { started <- m.open(t.Context()) }()
	raftstoretest.Eventually(t, func() error {
		code, body, err := ask(socketOf(config), "http://host1/mesh/v1/status")
		if err != nil {
			return err
		}
		var status admin.Status
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			return err
		}
		if code != http.StatusOK || len(status.Warnings) == 0 || !strings.Contains(status.Warnings[0], "cannot use its copy") || !strings.Contains(status.Warnings[0], "future/v1") {
			t.Errorf("status %d %s", code, body)
		}
		return nil
	})
	for url, want := range map[string]int{"/livez": 200, "/readyz": 503} {
		if code, body, err := ask(http.DefaultClient, "http://"+config.MetricsListen+url); err != nil || code != want {
			t.Errorf("%s answers %d %q, %v; want %d", url, code, body, err, want)
		}
	}
	if code, body, err := ask(http.DefaultClient, "http://"+config.MetricsListen+"/metrics"); err != nil || code != 200 || !strings.Contains(body, "\nvirtmesh_store_halted 1\n") {
		t.Errorf("the metrics do not show it: %d %v", code, err)
	}
	select {
	case err := <-started:
		t.Fatalf("the agent ends: %v", err)
	default:
	}
	// When its copy is deleted, as resync does, the agent ends once, to start afresh.
	if err := raftstore.Empty(config.raftDir()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; !errors.Is(err, errCopyDeleted) {
		t.Errorf("the wait ends with %v", err)
	}
	if _, err := net.Dial("tcp", config.MetricsListen); err == nil {
		t.Error("the waiting room is still open")
	}
}

// An agent that waits for help can be stopped.
func TestWaitingForHelpEndsWithTheAgent(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	shutdown(found(t, path, config))
	writeUnjudgeable(t, config)
	m := newMember(config, testOptions())
	t.Cleanup(func() { shutdown(m) })
	ctx, stop := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() { started <- m.open(ctx) }()
	raftstoretest.Eventually(t, func() error {
		_, _, err := ask(socketOf(config), "http://host1/mesh/v1/status")
		return err
	})
	stop()
	if err := <-started; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ends with %v", err)
	}
}

// raiseBeyond raises the mesh of a host, as a later version does, to a level that this
// version does not know.
func raiseBeyond(t *testing.T, config Config) {
	t.Helper()
	cfg := config.storeConfig(slog.New(slog.DiscardHandler))
	links := raftstoretest.NewNetwork()
	cfg.Raft, cfg.RPC = links.Listen("raft", cfg.Addr), links.Listen("rpc", cfg.Addr)
	cfg.Version = "9.0"
	cfg.FeatureLevel.Highest++
	s, err := raftstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, s)
	if err := s.RaiseFeatureLevel(t.Context(), cfg.FeatureLevel.Highest); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// An earlier version than the mesh's level allows touches nothing: it says which version to
// install, and is not started again for ever. The later version goes on with the same copy.
func TestAVersionBelowTheLevelWaits(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	shutdown(found(t, path, config))
	raiseBeyond(t, config)

	m := newMember(config, testOptions())
	t.Cleanup(func() { shutdown(m) })
	ctx, stop := context.WithCancel(t.Context())
	started := make(chan error, 1)
	go func() { started <- m.open(ctx) }()
	raftstoretest.Eventually(t, func() error {
		_, body, err := ask(socketOf(config), "http://host1/mesh/v1/status")
		if err != nil {
			return err
		}
		var status admin.Status
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			return err
		}
		want := fmt.Sprintf("this mesh is at feature level %d, and this version knows %s", level.Highest+1, level.Known())
		if len(status.Warnings) == 0 || !strings.Contains(status.Warnings[0], want) || !strings.Contains(status.Warnings[0], "9.0") {
			t.Errorf("status %s, want %q and the version to install", body, want)
		}
		return nil
	})
	select {
	case err := <-started:
		t.Fatalf("the agent ends: %v", err)
	default:
	}
	stop()
	<-started
	shutdown(m)
	cfg := config.storeConfig(slog.New(slog.DiscardHandler))
	links := raftstoretest.NewNetwork()
	cfg.Raft, cfg.RPC = links.Listen("raft", cfg.Addr), links.Listen("rpc", cfg.Addr)
	cfg.FeatureLevel.Highest++
	s, err := raftstore.Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("the later version cannot go on: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}
