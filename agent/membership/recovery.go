package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
)

// Recover makes this host the only voter after a quorum was lost for good. The agent
// must not be running. Recover refuses while another host reports a leader, unless force
// is set.
func Recover(ctx context.Context, config Config, force bool) (raftstore.Recovered, error) {
	if err := mayFound(ctx, config, force); err != nil {
		return raftstore.Recovered{}, err
	}
	recovered, err := raftstore.RecoverCluster(ctx, config.storeConfig(slog.New(slog.DiscardHandler)), beginTimeline)
	if err != nil {
		return recovered, fmt.Errorf("recover the mesh from this host: %w", stopFirst(err))
	}
	return recovered, nil
}

// Restore makes this host the only voter of a mesh with the state from a backup. It is
// for a mesh of which no usable copy is left. The agent must not be running, and this
// host must have no copy of the state. Like Recover, it refuses while another host
// reports a leader.
func Restore(ctx context.Context, config Config, backup io.Reader, force bool) (raftstore.Recovered, error) {
	if err := mayFound(ctx, config, force); err != nil {
		return raftstore.Recovered{}, err
	}
	cfg := config.storeConfig(slog.New(slog.DiscardHandler))
	restored, err := raftstore.RestoreBackup(ctx, cfg, backup, beginTimeline)
	if errors.Is(err, raftstore.ErrHasState) {
		return restored, fmt.Errorf("%w; move it away first: mv %s %[2]s.old", err, cfg.DataDir)
	}
	if err != nil {
		return restored, fmt.Errorf("restore the mesh on this host: %w", stopFirst(err))
	}
	return restored, nil
}

// beginTimeline returns the first writes of a recovered mesh. All hosts that its copy
// records are put into quarantine, this one too.
func beginTimeline(state raftstore.View, began uint64) ([]raftstore.Op, error) {
	var hosts []string
	state.Ascend(identity.HostsPrefix, func(rec raftstore.Record) bool {
		hosts = append(hosts, strings.TrimPrefix(rec.Key, identity.HostsPrefix))
		return true
	})
	return claims.BeginTimeline(state, began, hosts), nil
}

// Bounds of the question whether another host still has a leader. A host that starts
// may take a moment to answer.
const (
	probeTimeout = 10 * time.Second
	probePause   = 500 * time.Millisecond
	// leaderSilence is for how long a host may not have heard from its leader and still
	// report one. Elections take less.
	leaderSilence = 5 * time.Second
)

// mayFound returns an error if this host must not found a new group of the replicated
// store: its agent runs, or the other hosts have a leader. A new group replaces theirs, so
// every one of them would stop when it meets it.
func mayFound(ctx context.Context, config Config, force bool) error {
	if conn, err := net.Dial("unix", config.Socket()); err == nil {
		return errors.Join(errors.New("this host's agent is running: stop it first ('systemctl stop virtmesh')"), conn.Close())
	}
	if force {
		return nil
	}
	m := newMember(config, Options{Logger: slog.New(slog.DiscardHandler)})
	if err := m.openIdentity(ctx); err != nil {
		return err
	}
	// A host that was off for a day could not talk to the others.
	if err := m.renewExpired(ctx); err != nil {
		return fmt.Errorf("ask the other hosts whether they have a leader: %w", err)
	}
	return m.othersMustBeLost(ctx)
}

// othersMustBeLost asks all other hosts that this one has an address of. A host whose
// machine does not even accept a connection is lost. One that accepts it must say that it
// has no leader.
func (m *Member) othersMustBeLost(ctx context.Context) error {
	cfg := port.DefaultConfig()
	// Nothing connects to this port: it is there to dial with the host's certificate.
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", m.identity
	dialer, err := port.New(cfg)
	if err != nil {
		return fmt.Errorf("ask the other hosts whether they have a leader: %w", err)
	}
	defer dialer.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	seeds := m.identity.Info().Seeds
	refusals := make([]error, len(seeds))
	var asking sync.WaitGroup
	for i, seed := range seeds {
		asking.Go(func() { refusals[i] = mustBeLost(ctx, dialer, seed) })
	}
	asking.Wait()
	refusals = slices.DeleteFunc(refusals, func(err error) bool { return err == nil })
	if len(refusals) == 0 {
		return nil
	}
	return fmt.Errorf("the mesh may not be lost: %w", errors.Join(refusals...))
}

// mustBeLost returns an error if a host has a leader, or answers and does not say whether
// it has.
func mustBeLost(ctx context.Context, dialer *port.Port, seed identity.Seed) error {
	for {
		alive, err := askForLeader(ctx, dialer, seed.MeshAddress)
		var dial *net.OpError
		switch {
		case errors.As(err, &dial) && dial.Op == "dial":
			return nil
		case err == nil && alive:
			return fmt.Errorf("%s, at %s, has a leader: if only this host is cut off or its copy is bad, run 'virtmesh agent resync --yes' instead, and start the agent", seed.Host, seed.MeshAddress)
		case err == nil:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s, at %s, answers, and does not say whether it has a leader: stop its agent, or repeat with --force: %w", seed.Host, seed.MeshAddress, err)
		case <-time.After(probePause):
		}
	}
}

func askForLeader(ctx context.Context, dialer *port.Port, address string) (bool, error) {
	conn, err := dialer.DialHost(ctx, port.ProtoStore, "", address)
	if err != nil {
		return false, err
	}
	alive, err := raftstore.HearsLeader(conn, leaderSilence)
	return alive, errors.Join(err, conn.Close())
}
