package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestReplicasWithoutVoteConfirmNoLeader: a leader that was replaced by its voters, and
// does not know it yet, must not count the answers of nonvoters.
func TestReplicasWithoutVoteConfirmNoLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := "host2"
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.Max = 3
			cfg.Timing.Heartbeat = 4 * time.Second // long enough that nobody campaigns before the cut
			if cfg.NodeID == old {
				cfg.Timing.Heartbeat = time.Hour // which is the lease too
			}
		}))
		for _, id := range []string{"host4", "host5", "host6"} {
			c.Add(id)
		}
		if first := c.Leader(); first != old {
			if err := raftstore.HandOver(c.Node(first), c.Node(old)); err != nil {
				t.Fatal(err)
			}
		}
		s := c.Node(old)
		mustCommit(t, s, put("/k", "old"))
		if _, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil {
			t.Fatalf("linearizable read on the leader: %v", err)
		}
		c.Net.Partition([]string{c.Addr("host1"), c.Addr("host3")})
		var next *raftstore.Store
		raftstoretest.Eventually(t, func() error {
			for _, id := range []string{"host1", "host3"} {
				if next = c.Node(id); next.IsLeader() {
					return nil
				}
			}
			return errors.New("the other voters have no leader")
		})
		mustCommit(t, next, put("/k", "new"))
		for _, id := range []string{old, "host4"} {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			r, _, err := c.Node(id).Get(ctx, "/k", raftstore.ReadOptions{})
			cancel()
			if !errors.Is(err, raftstore.ErrNoLeader) {
				t.Errorf("linearizable read on %s: %q, %v", id, r.Value, err)
			}
		}
		if !s.IsLeader() {
			t.Error("the old leader knows that it is none, so this proved nothing")
		}
		c.Net.Heal()
		if r, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil || string(r.Value) != "new" {
			t.Errorf("linearizable read after the partition: %q, %v", r.Value, err)
		}
	})
}

// TestOnlyVoterReadsAlone: a single voter needs no other replica to serve reads.
func TestOnlyVoterReadsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 2)
		s := c.Node("host1")
		mustCommit(t, s, put("/k", "v"))
		c.Net.Cut(c.Addr("host2"))
		if _, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil {
			t.Error(err)
		}
	})
}

// TestDeadVoterDoesNotSlowReads: a majority is enough, and a voter that is back
// counts again.
func TestDeadVoterDoesNotSlowReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Timing.RPC, cfg.Timing.Dial = time.Hour, time.Hour
		}))
		leader := c.Leader()
		for _, dead := range []string{"host1", "host2", "host3"} {
			if dead == leader {
				continue
			}
			c.Net.Silence(c.Addr(dead))
			for range 200 {
				ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
				_, _, err := c.Node(leader).Get(ctx, "/k", raftstore.ReadOptions{})
				cancel()
				if !errors.Is(err, raftstore.ErrNotFound) {
					t.Fatalf("read while %s is dead: %v", dead, err)
				}
			}
			c.Net.Heal()
		}
	})
}

// TestTermOfAnotherReplica: a reinstalled host must not answer for the voter that it
// was before.
func TestTermOfAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		if err := raftstore.AskTerm(s, raftstore.ReplicaID(s)); err != nil {
			t.Error(err)
		}
		if err := raftstore.AskTerm(s, "host1/otherdata"); err == nil {
			t.Error("the replica answered for another")
		}
	})
}

// TestSilentLeaderHoldsNobodyUp: once another leader is known, no request waits for one
// that has lost its power.
func TestSilentLeaderHoldsNobodyUp(t *testing.T) {
	for _, connected := range []bool{true, false} {
		t.Run(fmt.Sprint("connected=", connected), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
					cfg.Timing.Heartbeat = 500 * time.Millisecond
					cfg.Timing.RPC, cfg.Timing.Dial = time.Hour, time.Hour
				}))
				dead := c.Leader()
				mustCommit(t, c.Node(dead), put("/k", "v"))
				if !connected {
					c.Net.Cut(c.Addr(dead))
				}
				c.Net.Silence(c.Addr(dead))
				ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
				defer cancel()
				var wg sync.WaitGroup
				for _, s := range c.Live() {
					if s == c.Node(dead) {
						continue
					}
					wg.Go(func() {
						if _, _, err := s.Get(ctx, "/k", raftstore.ReadOptions{}); err != nil {
							t.Errorf("read: %v", err)
						}
					})
					wg.Go(func() {
						if _, err := s.Commit(ctx, put("/k", "w")); err != nil {
							t.Errorf("commit: %v", err)
						}
					})
				}
				wg.Wait()
			})
		})
	}
}

// A list may leave out what was changed after a revision, page by page and at an earlier
// revision too.
func TestListOfWhatIsUnchanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		for i := range 5 {
			mustCommit(t, s, put(fmt.Sprint("/k/", i), "old"))
		}
		known := s.Revision()
		mustCommit(t, s, put("/k/1", "new"))
		mustCommit(t, s, put("/k/9", "new"))
		mustCommit(t, s, raftstore.Txn{Ops: []raftstore.Op{{Key: "/k/3", Delete: true}}})
		list := func(req raftstore.ListRequest) (keys []string, more bool) {
			t.Helper()
			req.Prefix, req.UnchangedSince = "/k/", known
			l, err := s.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range l.Records {
				keys = append(keys, strings.TrimPrefix(r.Key, "/k/"))
			}
			return keys, l.More
		}
		if got, _ := list(raftstore.ListRequest{}); !slices.Equal(got, []string{"0", "2", "4"}) {
			t.Errorf("unchanged are %v, want 0, 2 and 4", got)
		}
		if got, more := list(raftstore.ListRequest{Limit: 2}); !slices.Equal(got, []string{"0", "2"}) || !more {
			t.Errorf("the first page is %v, more %v; want 0 and 2, and more", got, more)
		}
		if got, more := list(raftstore.ListRequest{Limit: 2, After: "/k/2"}); !slices.Equal(got, []string{"4"}) || more {
			t.Errorf("the second page is %v, more %v; want 4, and no more", got, more)
		}
		if got, _ := list(raftstore.ListRequest{Revision: known}); !slices.Equal(got, []string{"0", "1", "2", "3", "4"}) {
			t.Errorf("at the revision itself unchanged are %v, want all five", got)
		}
	})
}
