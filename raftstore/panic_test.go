package raftstore_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A constraint that panics takes no process down. The replica stops at the entry, says
// why, and stops there again at its next start, until the constraint is mended.
func TestAConstraintThatPanicsStopsTheReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		broken.Store(true)
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConstraints(raftstore.Constraint{
			Name: "fragile", Version: 3, Check: func(raftstore.View, *raftstore.Txn, []byte) error {
				if broken.Load() {
					panic("index out of range")
				}
				return nil
			},
		}))
		before := mustCommit(t, c.Live()[0], put("/k", "before"))
		c.WaitRevision(before.Revision)
		txn := put("/k", "after")
		txn.Constraints = []raftstore.ConstraintCall{{Name: "fragile", Version: 3}}
		if _, err := c.Node(c.Leader()).Commit(t.Context(), txn); err == nil {
			t.Fatal("committed without a verdict")
		}
		stopped := func(err error) error {
			if !errors.Is(err, raftstore.ErrHalted) || !errors.Is(err, raftstore.ErrApplyPanicked) ||
				!strings.Contains(err.Error(), "constraint fragile/v3 panicked: index out of range") || !strings.Contains(err.Error(), "log index") {
				return fmt.Errorf("stopped with %w", err)
			}
			return nil
		}
		// The leader stops, then the next one; the last has no majority to tell it that the
		// entry is committed.
		var halted []string
		raftstoretest.Eventually(t, func() error {
			halted = nil
			for _, s := range c.Live() {
				if s.Err() != nil {
					halted = append(halted, s.Status(t.Context()).NodeID)
				}
			}
			if len(halted) < 2 {
				return fmt.Errorf("only %v stopped", halted)
			}
			return nil
		})
		for _, id := range halted {
			s := c.Node(id)
			if err := stopped(s.Err()); err != nil {
				t.Error(err)
			}
			st := s.Status(t.Context())
			if !strings.Contains(st.Failure, "fragile/v3") || st.Revision != before.Revision {
				t.Errorf("its status is %q at revision %d, want the state before the entry, %d", st.Failure, st.Revision, before.Revision)
			}
		}
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Kill(id)
		}
		for _, id := range halted {
			for range 2 {
				if _, err := raftstore.Open(t.Context(), c.Config(id)); stopped(err) != nil {
					t.Fatalf("%s starts again: %v", id, err)
				}
			}
		}
		broken.Store(false)
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Restart(id)
		}
		c.Leader()
		for _, s := range c.Live() {
			if r, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil || string(r.Value) != "after" {
				t.Errorf("with the mended constraint: %q, %v", r.Value, err)
			}
		}
	})
}
