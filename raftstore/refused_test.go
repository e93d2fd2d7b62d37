package raftstore_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A control loop whose cache is behind the replica may write as often as it
// likes: nothing of it reaches the other hosts.
func TestTxnOnOldRevisionTakesNoEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		s := raftstoretest.New(t, raftstoretest.WithConfig(func(c *raftstore.Config) { c.Registerer = reg }))
		entries := func() float64 { return gather(t, reg)["virtmesh_store_entries_applied_total"] }
		first := mustCommit(t, s, put("/changed", "1"))
		gone := mustCommit(t, s, put("/gone", "1"))
		mustCommit(t, s, put("/changed", "2"))
		mustCommit(t, s, raftstore.Txn{Ops: []raftstore.Op{{Key: "/gone", Delete: true}}})
		before := entries()
		for _, c := range []struct {
			key      string
			revision uint64
			current  string
		}{{"/changed", first.Revision, "2"}, {"/gone", gone.Revision, ""}} {
			txn := put(c.key, "3")
			txn.If = []raftstore.Condition{{Key: c.key, ModRevision: c.revision}}
			_, err := s.Commit(t.Context(), txn)
			var conflict *raftstore.ConflictError
			if !errors.As(err, &conflict) || conflict.Key != c.key || conflict.Want != c.revision {
				t.Fatalf("%s on an old revision: %v", c.key, err)
			}
			if have := conflict.Current; (have != nil) != (c.current != "") || have != nil && string(have.Value) != c.current {
				t.Errorf("the conflict shows %+v at %s, want %q", have, c.key, c.current)
			}
		}
		if got := entries(); got != before {
			t.Errorf("%v entries were written for transactions that could only be refused", got-before)
		}
	})
}

// A retry whose first attempt was carried out finds the key changed by itself.
func TestRetryOnItsOwnRevisionReturnsFirstOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		old := mustCommit(t, s, put("/k", "1"))
		txn := put("/k", "2")
		txn.RequestID, txn.If = "request", []raftstore.Condition{{Key: "/k", ModRevision: old.Revision}}
		first := mustCommit(t, s, txn)
		again := mustCommit(t, s, txn)
		if again.Revision != first.Revision {
			t.Errorf("the retry took revision %d, the first attempt %d", again.Revision, first.Revision)
		}
	})
}
