package raftstore_test

import (
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"virtmesh/raftstore"
)

// turns counts what the replicas of a test write to each other. In fake time a loop that waits
// for nothing would never end: it cannot write more than most times, and the test fails.
type turns struct {
	most  int64
	taken atomic.Int64
}

// errTooManyTurns: somebody writes again and again, and time stands still.
var errTooManyTurns = errors.New("a loop waits for nothing")

// count makes a replica's writes count.
func (n *turns) count(cfg *raftstore.Config) {
	cfg.Raft, cfg.RPC = countedLayer{cfg.Raft, n}, countedLayer{cfg.RPC, n}
	peerOf := cfg.PeerOf
	cfg.PeerOf = func(conn net.Conn) string { return peerOf(conn.(countedConn).Conn) }
}

// check fails the test if there were more than most turns since the last check.
func (n *turns) check(t *testing.T, when string) {
	t.Helper()
	taken := n.taken.Swap(0)
	t.Logf("%s: %d messages", when, taken)
	if taken > n.most {
		t.Fatalf("%s: more than %d messages: %v", when, n.most, errTooManyTurns)
	}
}

type countedLayer struct {
	raftstore.StreamLayer
	turns *turns
}

// Accept implements net.Listener.
func (l countedLayer) Accept() (net.Conn, error) {
	conn, err := l.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return countedConn{conn, l.turns}, nil
}

// Dial implements raftstore.StreamLayer.
func (l countedLayer) Dial(addr string, timeout time.Duration) (net.Conn, error) {
	conn, err := l.StreamLayer.Dial(addr, timeout)
	if err != nil {
		return nil, err
	}
	return countedConn{conn, l.turns}, nil
}

type countedConn struct {
	net.Conn
	turns *turns
}

// Write implements net.Conn.
func (c countedConn) Write(b []byte) (int, error) {
	if c.turns.taken.Add(1) > c.turns.most {
		time.Sleep(time.Second) // so that the test comes to its end
		return 0, errors.Join(errTooManyTurns, c.Conn.Close())
	}
	return c.Conn.Write(b)
}
