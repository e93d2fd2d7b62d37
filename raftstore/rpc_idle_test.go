package raftstore

import (
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestIdleConnection: a connection ends once it is idle, not before, and not while a request
// waits for its answer. Whoever had it then takes another one.
func TestIdleConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer func() { _ = far.Close() }()
		c := &peerConn{conn: near, out: newOutbox(), pending: map[uint64]func(frame){}, dead: make(chan struct{}), used: time.Now()}
		id, _ := c.send(opTerm, nil, 0, func(frame) {})
		time.Sleep(2 * idleLimit)
		if c.failIfUnused(idleLimit); !c.alive() {
			t.Fatal("a connection ended although a request waits")
		}
		c.forgetRequest(id)
		c.offer(opCommitted, nil)
		time.Sleep(idleLimit / 2)
		if c.failIfUnused(idleLimit); !c.alive() {
			t.Fatal("a connection ended that is in use")
		}
		time.Sleep(idleLimit)
		if c.failIfUnused(idleLimit); c.alive() {
			t.Error("an idle connection stays")
		}
		if _, ok := c.send(opTerm, nil, 0, func(frame) {}); ok {
			t.Error("a request was sent on a connection that has ended")
		}
	})
}
