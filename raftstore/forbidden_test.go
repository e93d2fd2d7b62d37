package raftstore_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// The leader judges what other hosts want to change by who they are. What it refuses is refused
// for good, and what it cannot judge yet is tried again.
func TestTheLeaderJudgesWhoMayChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var undecided atomic.Int32
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.MayChange = func(s *raftstore.Store, from string, txn raftstore.Txn) error {
				switch key := txn.Ops[0].Key; {
				case !s.IsLeader():
					return fmt.Errorf("%w: asked of who does not lead", raftstore.ErrForbidden)
				case key == "/late" && undecided.Add(1) < 3:
					return errors.New("it cannot be told yet")
				case key == "/of/"+from, key == "/late":
					return nil
				}
				return fmt.Errorf("%w: not %s's", raftstore.ErrForbidden, from)
			}
		}))
		leader := c.Node(c.Leader())
		for _, s := range c.Live() {
			name := s.Status(t.Context()).NodeID
			mustCommit(t, s, put("/of/"+name, "v"))
			_, err := s.Commit(t.Context(), put("/of/host9", name))
			if own := s == leader; own != (err == nil) || !own && !errors.Is(err, raftstore.ErrForbidden) {
				t.Errorf("%s, which leads: %t, changes what is another's: %v", name, own, err)
			}
			if s != leader {
				undecided.Store(0)
				mustCommit(t, s, put("/late", name))
			}
		}
		if rec, _, err := leader.Get(t.Context(), "/of/host9", raftstore.ReadOptions{}); err != nil || string(rec.Value) != leader.Status(t.Context()).NodeID {
			t.Errorf("what was refused was made: %s, %v", rec.Value, err)
		}
	})
}

// A leader that has not applied its log yet judges no change by what it has: it is asked again.
func TestALeaderJudgesByItsWholeLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ready atomic.Bool
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.MayChange = func(*raftstore.Store, string, raftstore.Txn) error {
				if !ready.Load() {
					return fmt.Errorf("%w: judged by half a log", raftstore.ErrForbidden)
				}
				return nil
			}
		}))
		leader := c.Node(c.Leader())
		release := raftstore.HoldReady(leader)
		var other *raftstore.Store
		for _, s := range c.Live() {
			if s != leader {
				other = s
			}
		}
		done := make(chan error, 1)
		go func() {
			_, err := other.Commit(t.Context(), put("/k", "v"))
			done <- err
		}()
		time.Sleep(time.Second)
		select {
		case err := <-done:
			t.Fatalf("the leader has judged before it had applied its log: %v", err)
		default:
		}
		ready.Store(true)
		release()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
