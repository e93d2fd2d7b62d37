package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// guardedRaft is a raft.Raft whose futures always end. The library leaves a future
// unanswered if it shuts down while the request is queued for its state machine or
// its main loop, so a caller would wait for ever. While it runs, it answers all of them.
// So drain is called before Raft is shut down. Should a future be left even so, it
// returns ErrRaftShutdown once stopped is closed, which happens after Raft has shut
// down.
//
// The goroutine that waits for an unanswered future is the only goroutine of this
// package that can outlive Close, because only the library could end it.
type guardedRaft struct {
	*raft.Raft
	stopped <-chan struct{}

	mu      sync.Mutex
	waiting int           // futures that somebody waits for
	idle    chan struct{} // closed when there are none; nil unless drain waits
}

var _ autopilot.Raft = (*guardedRaft)(nil)

// begin counts a future that somebody waits for, until end.
func (g *guardedRaft) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting++
}

func (g *guardedRaft) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting--; g.waiting == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

// drain waits until nobody waits for a future, but not longer than limit. New requests
// must have ended before. A leader without a quorum steps down within its lease, and
// answers what it could not commit.
func (g *guardedRaft) drain(limit time.Duration) {
	g.mu.Lock()
	if g.waiting == 0 {
		g.mu.Unlock()
		return
	}
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	g.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	}
}

// guardedFuture is a future of guardedRaft.
type guardedFuture struct {
	raft.Future
	raft *guardedRaft
}

// Error implements raft.Future.
func (f guardedFuture) Error() error {
	done := make(chan error, 1)
	f.raft.begin()
	go func() {
		defer f.raft.end()
		done <- f.Future.Error()
	}()
	select {
	case err := <-done:
		return err
	case <-f.raft.stopped:
	}
	select {
	case err := <-done:
		return err
	default:
		return raft.ErrRaftShutdown
	}
}

type guardedIndexFuture struct {
	guardedFuture
	index func() uint64
}

var _ raft.IndexFuture = guardedIndexFuture{}

// Index implements raft.IndexFuture.
func (f guardedIndexFuture) Index() uint64 { return f.index() }

type guardedApplyFuture struct {
	guardedIndexFuture
	response func() any
}

var _ raft.ApplyFuture = guardedApplyFuture{}

// Response implements raft.ApplyFuture.
func (f guardedApplyFuture) Response() any { return f.response() }

func (g *guardedRaft) guard(f raft.Future) guardedFuture { return guardedFuture{f, g} }

func (g *guardedRaft) guardIndex(f raft.IndexFuture) guardedIndexFuture {
	return guardedIndexFuture{g.guard(f), f.Index}
}

// Apply wraps raft.Raft.Apply.
func (g *guardedRaft) Apply(b []byte, timeout time.Duration) raft.ApplyFuture {
	f := g.Raft.Apply(b, timeout)
	return guardedApplyFuture{g.guardIndex(f), f.Response}
}

// Barrier wraps raft.Raft.Barrier.
func (g *guardedRaft) Barrier(timeout time.Duration) raft.Future {
	return g.guard(g.Raft.Barrier(timeout))
}

// LeadershipTransferToServer wraps raft.Raft.LeadershipTransferToServer.
func (g *guardedRaft) LeadershipTransferToServer(id raft.ServerID, addr raft.ServerAddress) raft.Future {
	return g.guard(g.Raft.LeadershipTransferToServer(id, addr))
}

// AddNonvoter wraps raft.Raft.AddNonvoter.
func (g *guardedRaft) AddNonvoter(id raft.ServerID, addr raft.ServerAddress, prev uint64, timeout time.Duration) raft.IndexFuture {
	return g.guardIndex(g.Raft.AddNonvoter(id, addr, prev, timeout))
}

// AddVoter wraps raft.Raft.AddVoter.
func (g *guardedRaft) AddVoter(id raft.ServerID, addr raft.ServerAddress, prev uint64, timeout time.Duration) raft.IndexFuture {
	return g.guardIndex(g.Raft.AddVoter(id, addr, prev, timeout))
}

// DemoteVoter wraps raft.Raft.DemoteVoter.
func (g *guardedRaft) DemoteVoter(id raft.ServerID, prev uint64, timeout time.Duration) raft.IndexFuture {
	return g.guardIndex(g.Raft.DemoteVoter(id, prev, timeout))
}

// RemoveServer wraps raft.Raft.RemoveServer.
func (g *guardedRaft) RemoveServer(id raft.ServerID, prev uint64, timeout time.Duration) raft.IndexFuture {
	return g.guardIndex(g.Raft.RemoveServer(id, prev, timeout))
}
