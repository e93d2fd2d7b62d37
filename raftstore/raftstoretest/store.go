// Package raftstoretest runs raftstore replicas for tests: a single replica with New,
// a group with NewCluster. They talk over an in-memory network whose links can be
// cut. Only tests may import this package.
//
// Everything works in a testing/synctest bubble, where time is fake.
package raftstoretest

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"virtmesh/raftstore"
)

// ReadyTimeout is how long the helpers wait for a condition, such as a leader. It is
// long because tests run on shared machines.
const ReadyTimeout = 60 * time.Second

// Option changes the configuration of a replica before it is opened.
type Option func(*raftstore.Config)

// WithConstraints registers constraints.
func WithConstraints(list ...raftstore.Constraint) Option {
	return func(c *raftstore.Config) { c.Constraints = append(c.Constraints, list...) }
}

// WithConfig applies f to the configuration.
func WithConfig(f func(*raftstore.Config)) Option { return f }

// Config returns the configuration of a replica named id on n, with short timeouts
// for tests. It has no data directory, so the state is kept in memory.
func Config(n *Network, id string, options ...Option) raftstore.Config {
	cfg := raftstore.DefaultConfig()
	cfg.NodeID = id
	cfg.Addr = id + ":7000"
	cfg.Timing.Heartbeat = 150 * time.Millisecond
	cfg.Timing.Dial = time.Second
	cfg.Timing.RPC = 2 * time.Second
	cfg.Timing.SnapshotCheck = 100 * time.Millisecond
	cfg.Voters.Stabilization = 0
	cfg.Voters.Update = 50 * time.Millisecond
	cfg.Voters.Reconcile = 100 * time.Millisecond
	cfg.Logger = slog.New(slog.DiscardHandler)
	start := time.Now()
	cfg.BootTime = func() time.Duration { return time.Since(start) }
	cfg.Raft = n.Listen("raft", cfg.Addr)
	cfg.RPC = n.Listen("rpc", cfg.Addr)
	cfg.PeerOf = func(conn net.Conn) string { return strings.TrimSuffix(PeerAddr(conn), ":7000") }
	for _, o := range options {
		o(&cfg)
	}
	return cfg
}

// New opens a group of one replica in memory, waits until it serves, and closes it at
// the end of the test.
func New(tb testing.TB, options ...Option) *raftstore.Store {
	tb.Helper()
	cfg := Config(NewNetwork(), "host1", options...)
	cfg.Bootstrap = true
	s, err := raftstore.Open(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("open store: %v", err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Errorf("close store: %v", err)
		}
	})
	WaitServing(tb, s)
	return s
}

// WaitServing waits until s answers linearizable reads.
func WaitServing(tb testing.TB, s *raftstore.Store) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), ReadyTimeout)
	defer cancel()
	if _, err := s.List(ctx, raftstore.ListRequest{Prefix: "/", Limit: 1}); err != nil {
		tb.Fatalf("store does not serve: %v", err)
	}
}

// Eventually waits until ok returns nil. If that takes longer than ReadyTimeout, it
// fails the test with the last error.
func Eventually(tb testing.TB, ok func() error) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.Now().Add(ReadyTimeout)
	for {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatal(fmt.Errorf("still after %s: %w", ReadyTimeout, err))
		}
		<-tick.C
	}
}
