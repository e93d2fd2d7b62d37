package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/porttest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// newMachine is the configuration of a host on this machine's loopback network.
func newMachine(t *testing.T, name string) (path string, config Config) {
	t.Helper()
	dir := t.TempDir()
	config = DefaultConfig()
	config.Name, config.Advertise = name, "127.0.0.1"
	config.StateDir, config.RunDir = filepath.Join(dir, "state"), filepath.Join(dir, "run")
	config.Keyring.Seal = hostseal.WithFile // and not with the TPM of this machine
	config.MeshListen, config.MetricsListen = porttest.Address(t), porttest.Address(t)
	config.GossipPort = porttest.Reserve(t)
	return filepath.Join(dir, "agent.yaml"), config
}

// configFile is the configuration file of a host of a test.
func configFile(path string) ConfigFile {
	return ConfigFile{Path: path, Save: func(path string) error { return os.WriteFile(path, nil, 0o600) }}
}

// boot does what Start does up to becoming a replica, and knows the mesh's hosts as Run does.
func boot(t *testing.T, config Config) *Member {
	t.Helper()
	m := newMember(config, testOptions())
	var following sync.WaitGroup
	t.Cleanup(following.Wait)
	t.Cleanup(func() { shutdown(m) })
	if err := m.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	following.Go(func() { m.peers.FollowRecords(t.Context(), m.store) })
	return m
}

func testOptions() Options {
	return Options{
		Version: "test", Logger: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(),
		NotifyAlive: func(ctx context.Context, _ func() error) error { <-ctx.Done(); return nil },
	}
}

// open takes the steps of a start that need no other host.
func (m *Member) open(ctx context.Context) error {
	for _, step := range m.openingSteps() {
		if err := step.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// socketOf returns a client of a host's administration socket.
func socketOf(config Config) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", config.Socket())
	}}}
}

// shutdown stops a member.
func shutdown(m *Member) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	m.Close(ctx)
}

// found boots the first host of a new mesh.
func found(t *testing.T, path string, config Config) *Member {
	t.Helper()
	if err := Init(config, configFile(path), nil); err != nil {
		t.Fatal(err)
	}
	m := boot(t, config)
	if err := m.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// joinFirst joins a machine to the mesh of its first host and boots it there.
func joinFirst(t *testing.T, first *Member, path string, config Config) *Member {
	t.Helper()
	if err := first.serveJoin(t.Context()); err != nil {
		t.Fatal(err)
	}
	token, _, err := identity.NewTokens(first.store).Create(t.Context(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	invitation := Invitation{Address: first.config.MeshAddress(), Token: token.Encode(), Version: "test"}
	if err := Join(t.Context(), config, configFile(path), invitation); err != nil {
		t.Fatal(err)
	}
	second := boot(t, config)
	if err := second.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	return second
}

// loseCopy stops a member and removes its replica from the disk.
func loseCopy(t *testing.T, m *Member) {
	t.Helper()
	shutdown(m)
	if err := raftstore.Empty(m.config.raftDir()); err != nil {
		t.Fatal(err)
	}
}

// ask sends a request to a waiting agent.
func ask(client *http.Client, url string) (status int, body string, err error) {
	response, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}

// TestFounderWithoutCopyWaits: the first host of a mesh that lost its copy must not
// found a second mesh, in which none of its guests is wanted.
func TestFounderWithoutCopyWaits(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	loseCopy(t, found(t, path, config))

	a := boot(t, config)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- a.joinStore(ctx) }()
	socket := socketOf(config)
	raftstoretest.Eventually(t, func() error {
		code, body, err := ask(socket, "http://host1/mesh/v1/status")
		var status admin.Status
		if err == nil {
			err = json.Unmarshal([]byte(body), &status)
		}
		if err != nil {
			return err
		}
		if code != http.StatusOK || len(status.Warnings) == 0 || !strings.Contains(status.Warnings[0], "no copy of the mesh's state") {
			t.Errorf("status %d %s", code, body)
		}
		return nil
	})
	for url, want := range map[string]int{"/livez": 200, "/metrics": 200, "/readyz": 503} {
		code, body, err := ask(http.DefaultClient, "http://"+config.MetricsListen+url)
		if err != nil || code != want || want == 503 && !strings.Contains(body, "waits for another host") {
			t.Errorf("%s answers %d %q, %v; want %d", url, code, body, err, want)
		}
	}
	if code, body, err := ask(socket, "http://host1/api/v1/nodes"); err != nil || code != 503 || !strings.Contains(body, `"kind":"Status"`) {
		t.Errorf("the API answers %d %s, %v", code, body, err)
	}
	select {
	case err := <-done:
		t.Fatalf("went on without a copy: %v", err)
	default:
	}
	if status := a.store.Status(ctx); len(status.Voters) > 0 || status.LastIndex > 0 {
		t.Errorf("a new group was founded: %+v", status)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("waiting ended with %v", err)
	}
	if _, err := net.Dial("tcp", config.MetricsListen); err == nil {
		t.Error("the waiting room is still open")
	}
}

// TestFounderFetchesCopy: it finds the others by what it remembered of them.
func TestFounderFetchesCopy(t *testing.T) {
	t.Parallel()
	path1, config1 := newMachine(t, "host1")
	path2, config2 := newMachine(t, "host2")
	first := found(t, path1, config1)
	second := joinFirst(t, first, path2, config2)
	first.peers.readRecords()
	if seeds := first.identity.Info().Seeds; len(seeds) != 1 || seeds[0].MeshAddress != config2.MeshAddress() {
		t.Fatalf("host1 remembers %+v", seeds)
	}
	if err := first.store.Leave(t.Context()); err != nil { // two hosts have one voter
		t.Fatal(err)
	}
	if _, err := second.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: "/k", Value: []byte("v")}}}); err != nil {
		t.Fatal(err)
	}
	shutdown(first)
	if err := Resync(config1); err != nil {
		t.Fatal(err)
	}
	back := boot(t, config1)
	if err := back.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := back.store.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil {
		t.Errorf("the new copy: %v", err)
	}
}

// A host that joined after the backup was made that its mesh was restored from has no record
// there, and gets no copy. It says so, and what helps, while it waits.
func TestAHostThatTheRestoredMeshDoesNotKnowIsTold(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	path2, config2 := newMachine(t, "host2")
	first := found(t, path, config)
	loseCopy(t, joinFirst(t, first, path2, config2))
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.HostsPrefix + "host2", Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	second := boot(t, config2)
	ctx, stop := context.WithCancel(t.Context())
	waiting := make(chan error, 1)
	go func() { waiting <- second.joinStore(ctx) }()
	raftstoretest.Eventually(t, func() error {
		_, body, err := ask(socketOf(config2), "http://host2/mesh/v1/status")
		if err != nil {
			return err
		}
		var status admin.Status
		if err := json.Unmarshal([]byte(body), &status); err != nil {
			return err
		}
		if len(status.Warnings) == 0 || !strings.Contains(status.Warnings[0], "no record of host2") || !strings.Contains(status.Warnings[0], "join it with a new token") {
			return fmt.Errorf("warned of %q", status.Warnings)
		}
		return nil
	})
	stop()
	if err := <-waiting; !errors.Is(err, context.Canceled) {
		t.Errorf("the wait ends with %v", err)
	}
}

// TestFounderCrashesBeforeSeed: the marker outlives every step before the last.
func TestFounderCrashesBeforeSeed(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	if err := Init(config, configFile(path), nil); err != nil {
		t.Fatal(err)
	}
	shutdown(boot(t, config))
	a := boot(t, config)
	if err := a.joinStore(t.Context()); err != nil {
		t.Fatalf("second start: %v", err)
	}
	shutdown(a)
	if a = boot(t, config); a.identity.Founder() || !a.store.Joined() {
		t.Errorf("third start: founder %v, joined %v", a.identity.Founder(), a.store.Joined())
	}
}

func TestResyncKeepsTheOnlyCopy(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	shutdown(found(t, path, config))
	if err := Resync(config); err == nil || !strings.Contains(err.Error(), "knows no other host") {
		t.Errorf("resync of a mesh of one: %v", err)
	}
	if a := boot(t, config); !a.store.Joined() {
		t.Error("its copy is gone")
	}
}

// TestRemedyIsNamed: who meets such an error in a log or in a status must not have to look it
// up, nor be told two things to do.
func TestRemedyIsNamed(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	shutdown(found(t, path, config))
	entries, err := filepath.Glob(filepath.Join(config.raftDir(), "wal", "*.wal"))
	if err != nil || len(entries) == 0 {
		t.Fatalf("%v, %v", entries, err)
	}
	if err := os.Truncate(entries[0], 0); err != nil {
		t.Fatal(err)
	}
	cfg := config.storeConfig(slog.New(slog.DiscardHandler))
	network := raftstoretest.NewNetwork()
	cfg.Raft, cfg.RPC = network.Listen("raft", cfg.Addr), network.Listen("rpc", cfg.Addr)
	_, err = raftstore.Open(t.Context(), cfg)
	if !errors.Is(err, raftstore.ErrCorruptLog) || strings.Count(err.Error(), "virtmesh agent resync --yes") != 1 || strings.Contains(err.Error(), "join again") {
		t.Errorf("a damaged copy: %v", err)
	}
}
