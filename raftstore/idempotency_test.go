package raftstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestRetryReturnsFirstOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		txn := put("/k", "v")
		txn.RequestID = "request-1"
		txn.If = []raftstore.Condition{{Key: "/k"}}
		first := mustCommit(t, c.Live()[0], txn)
		mustCommit(t, c.Live()[1], put("/k", "changed since"))
		for _, s := range c.Live() {
			again, err := s.Commit(t.Context(), txn)
			if err != nil || again.Revision != first.Revision {
				t.Errorf("retry: %+v, %v, want %+v", again, err, first)
			}
		}
		// The table is replicated: another leader knows it too.
		leader := c.Leader()
		c.Kill(leader)
		again, err := c.Live()[0].Commit(t.Context(), txn)
		if err != nil || again.Revision != first.Revision {
			t.Errorf("retry at another leader: %+v, %v", again, err)
		}
		other := put("/other", "v")
		other.RequestID = txn.RequestID
		if _, err := c.Live()[0].Commit(t.Context(), other); !errors.Is(err, raftstore.ErrRequestIDReused) {
			t.Errorf("another txn under the same ID: %v", err)
		}
	})
}

func TestInvalidTxns(t *testing.T) {
	s := raftstoretest.New(t)
	for _, tc := range []struct {
		name string
		txn  raftstore.Txn
		want error
	}{
		{"empty op key", put("", "v"), raftstore.ErrInvalidTxn},
		{"empty condition key", raftstore.Txn{If: []raftstore.Condition{{}}}, raftstore.ErrInvalidTxn},
		{"long key", put(strings.Repeat("k", raftstore.MaxKeyLen+1), "v"), raftstore.ErrInvalidTxn},
		{"long request ID", raftstore.Txn{RequestID: strings.Repeat("i", raftstore.MaxRequestIDLen+1)}, raftstore.ErrInvalidTxn},
		{"large value", put("/k", strings.Repeat("v", 5<<20)), raftstore.ErrTooLarge},
		{"many ops", raftstore.Txn{Ops: make([]raftstore.Op, raftstore.MaxTxnOps+1)}, raftstore.ErrTooLarge},
		{"unknown constraint", raftstore.Txn{Constraints: []raftstore.ConstraintCall{{Name: "none", Version: 1}}}, raftstore.ErrUnknownConstraint},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := s.Revision()
			if _, err := s.Commit(t.Context(), tc.txn); !errors.Is(err, tc.want) {
				t.Errorf("commit: %v, want %v", err, tc.want)
			}
			if s.Revision() != before || s.Err() != nil {
				t.Errorf("the store changed: revision %d after %d, %v", s.Revision(), before, s.Err())
			}
		})
	}
	r := mustCommit(t, s, raftstore.Txn{})
	if r.Revision != s.Revision() || len(r.OpRevisions) != 0 {
		t.Errorf("empty txn: %+v", r)
	}
}

// unique refuses a state in which two keys below /mac/ hold the same value.
var unique = raftstore.Constraint{Name: "unique", Version: 1, Check: func(v raftstore.View, _ *raftstore.Txn, args []byte) error {
	seen := map[string]string{}
	var err error
	v.Ascend(string(args), func(r raftstore.Record) bool {
		if other, ok := seen[string(r.Value)]; ok {
			err = fmt.Errorf("%s and %s both have %s", other, r.Key, r.Value)
		}
		seen[string(r.Value)] = r.Key
		return err == nil
	})
	return err
}}

func TestConstraintRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConstraints(unique))
		claim := func(key, mac string) raftstore.Txn {
			txn := put(key, mac)
			txn.Constraints = []raftstore.ConstraintCall{{Name: "unique", Version: 1, Args: []byte("/mac/")}}
			return txn
		}
		mustCommit(t, c.Live()[0], claim("/mac/a", "02:00"))
		before := c.Live()[0].Revision()
		for i, s := range c.Live() {
			_, err := s.Commit(t.Context(), claim(fmt.Sprint("/mac/b", i), "02:00"))
			var refused *raftstore.ConstraintError
			if !errors.As(err, &refused) || refused.Name != "unique" || !strings.Contains(refused.Reason, "both have 02:00") {
				t.Errorf("second claim of a MAC on replica %d: %v", i, err)
			}
			if s.Revision() != before {
				t.Errorf("refused txn took a revision: %d after %d", s.Revision(), before)
			}
		}
		mustCommit(t, c.Live()[1], claim("/mac/b", "02:01"))
	})
}

// TestReplicaWithoutConstraintHalts: a replica that cannot judge an entry stops
// instead of diverging, and goes on once it can.
func TestReplicaWithoutConstraintHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			if cfg.NodeID != "host3" {
				cfg.Constraints = []raftstore.Constraint{unique}
			}
		}))
		old := c.Node("host3")
		if old.IsLeader() {
			if err := old.TransferLeadership(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w, err := old.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		txn := put("/mac/a", "02:00")
		txn.Constraints = []raftstore.ConstraintCall{{Name: "unique", Version: 1, Args: []byte("/mac/")}}
		raftstoretest.Eventually(t, func() error {
			_, err := c.Node("host1").Commit(t.Context(), txn)
			return err // until host1 or host2 leads
		})
		<-old.Failed()
		if err := old.Err(); !errors.Is(err, raftstore.ErrHalted) || !errors.Is(err, raftstore.ErrUnknownConstraint) {
			t.Errorf("halted with %v", err)
		}
		if drain(w); !errors.Is(w.Err(), raftstore.ErrHalted) {
			t.Errorf("watch on the halted replica ended with %v", w.Err())
		}
		if _, _, err := old.Get(t.Context(), "/mac/a", raftstore.ReadOptions{Consistency: raftstore.Local}); !errors.Is(err, raftstore.ErrHalted) {
			t.Errorf("read on the halted replica: %v", err)
		}
		if _, err := old.Commit(t.Context(), put("/k", "v")); !errors.Is(err, raftstore.ErrHalted) {
			t.Errorf("commit on the halted replica: %v", err)
		}
		mustCommit(t, c.Node("host2"), put("/k", "the others go on"))
	})
}
