package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestClusterCommitAnywhereReadAnywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4)
		for i, s := range c.Live() {
			key := fmt.Sprintf("/k/%d", i)
			r := mustCommit(t, s, put(key, "v"))
			// Read your writes on the same replica, at no cost.
			if _, _, err := s.Get(t.Context(), key, raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil {
				t.Errorf("local read on replica %d after its commit: %v", i, err)
			}
			for j, other := range c.Live() {
				rec, _, err := other.Get(t.Context(), key, raftstore.ReadOptions{})
				if err != nil || rec.ModRevision != r.Revision {
					t.Errorf("replica %d after commit on %d: %+v, %v", j, i, rec, err)
				}
			}
		}
	})
}

func TestConflictTravelsFromLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		leader := c.Leader()
		r := mustCommit(t, c.Node(leader), put("/k", "v"))
		for _, s := range c.Live() {
			_, err := s.Commit(t.Context(), raftstore.Txn{
				If: []raftstore.Condition{{Key: "/k"}}, Ops: []raftstore.Op{{Key: "/k", Value: []byte("w")}},
			})
			var conflict *raftstore.ConflictError
			if !errors.As(err, &conflict) || conflict.Key != "/k" || conflict.Current == nil ||
				conflict.Current.ModRevision != r.Revision || string(conflict.Current.Value) != "v" {
				t.Errorf("conflict: %v, %+v", err, conflict)
			}
		}
	})
}

func TestLeaderLossIsSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		leader := c.Leader()
		mustCommit(t, c.Node(leader), put("/before", "v"))
		c.Kill(leader)
		for _, s := range c.Live() {
			mustCommit(t, s, put("/after", "v"))
			if _, _, err := s.Get(t.Context(), "/before", raftstore.ReadOptions{}); err != nil {
				t.Errorf("acknowledged write is lost: %v", err)
			}
		}
		back := c.Restart(leader)
		raftstoretest.WaitServing(t, back)
		if _, _, err := back.Get(t.Context(), "/after", raftstore.ReadOptions{}); err != nil {
			t.Errorf("restarted replica: %v", err)
		}
	})
}

func TestNoQuorumNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		leader := c.Leader()
		s := c.Node(leader)
		mustCommit(t, s, put("/k", "v"))
		c.Net.Cut(c.Addr(leader))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.Commit(ctx, put("/k", "w")); !errors.Is(err, raftstore.ErrUnknownOutcome) && !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("commit on a leader cut off: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, _, err := s.Get(ctx, "/k", raftstore.ReadOptions{}); !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("linearizable read on a leader cut off: %v", err)
		}
		if r, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil || string(r.Value) != "v" {
			t.Errorf("local read on a leader cut off: %+v, %v", r, err)
		}
		c.Net.Heal()
		mustCommit(t, s, put("/k", "x"))
	})
}

func TestBoundedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		follower := c.Live()[0]
		if id, _ := follower.Leader(); id == "host1" {
			follower = c.Live()[1]
		}
		mustCommit(t, follower, put("/k", "v"))
		bounded := raftstore.ReadOptions{Consistency: raftstore.Bounded, MaxStaleness: time.Hour}
		if _, _, err := follower.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Net.Cut(c.Addr(id))
		}
		if _, _, err := follower.Get(t.Context(), "/k", bounded); err != nil {
			t.Errorf("read within the bound needs no leader: %v", err)
		}
		time.Sleep(time.Millisecond) // so the state is older than the bound
		bounded.MaxStaleness = time.Nanosecond
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, _, err := follower.Get(ctx, "/k", bounded); !errors.Is(err, raftstore.ErrNoLeader) {
			t.Errorf("read beyond the bound without a leader: %v", err)
		}
	})
}

func TestLeaveHandsOverAndRejoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4)
		leader := c.Leader()
		time.Sleep(time.Second) // until the follower knows the voters
		if err := c.Node(leader).Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Kill(leader)
		c.WaitVoters(3)
		next := c.Node(c.Leader())
		if voters := next.Status(t.Context()).Voters; slices.Contains(voters, leader) {
			t.Errorf("%s left but is among the voters %v", leader, voters)
		}
		mustCommit(t, next, put("/k", "v"))
		back := c.Restart(leader)
		if err := back.Join(t.Context(), []string{c.Addr(c.Leader())}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := back.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local}); err != nil {
			t.Errorf("joined replica has not caught up: %v", err)
		}
	})
}

func TestDeadVoterIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4)
		leader := c.Leader()
		voters := c.Node(leader).Status(t.Context()).Voters
		i := slices.IndexFunc(voters, func(id string) bool { return id != leader })
		dead := voters[i]
		c.Kill(dead)
		raftstoretest.Eventually(t, func() error {
			now := c.Node(leader).Status(t.Context()).Voters
			if len(now) != 3 || slices.Contains(now, dead) {
				return fmt.Errorf("voters are %v, %s is dead", now, dead)
			}
			return nil
		})
	})
}

func TestDeadReplicaIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.ForgetAfter = 200 * time.Millisecond
		}))
		c.Kill("host4")
		raftstoretest.Eventually(t, func() error {
			peers := c.Node(c.Leader()).Status(t.Context()).Peers
			if slices.ContainsFunc(peers, func(p raftstore.PeerStatus) bool { return p.ID == "host4" }) {
				return fmt.Errorf("host4 is dead but still in %+v", peers)
			}
			return nil
		})
		back := c.Restart("host4")
		if err := back.Join(t.Context(), []string{c.Addr("host1")}); err != nil {
			t.Errorf("join after having been forgotten: %v", err)
		}
	})
}

func TestStatusShowsEveryReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		for _, id := range []string{"host1", "host2", "host3"} {
			c.SetHealth(id, func(m *raftstore.MemberHealth) { m.Zone = "zone-" + id })
		}
		raftstoretest.Eventually(t, func() error {
			for _, s := range c.Live() {
				st := s.Status(t.Context())
				if len(st.Peers) != 3 || st.Leader == "" || len(st.Voters) != 3 {
					return fmt.Errorf("status %+v", st)
				}
				for _, p := range st.Peers {
					if !p.Voter || !p.Alive || !p.Healthy || p.Zone != "zone-"+p.ID {
						return fmt.Errorf("peer %+v", p)
					}
				}
			}
			return nil
		})
	})
}

// TestReinstalledHostDoesNotVote: a host that lost its data must not answer for
// the voter it was, or what that voter had acknowledged could be lost.
func TestReinstalledHostDoesNotVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		leader := c.Leader()
		mustCommit(t, c.Node(leader), put("/k", "v"))
		var others []string
		for _, id := range []string{"host1", "host2", "host3"} {
			if id != leader {
				others = append(others, id)
			}
		}
		wiped, away := others[0], others[1]
		c.Kill(wiped)
		c.Kill(away)
		if err := os.RemoveAll(c.Config(wiped).DataDir); err != nil {
			t.Fatal(err)
		}
		s := c.Restart(wiped)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Node(leader).Commit(ctx, put("/k", "w")); err == nil {
			t.Fatal("the leader and an empty data directory made a majority")
		}
		if s.Revision() > 1 {
			t.Fatalf("the empty replica took entries meant for another, up to revision %d", s.Revision())
		}
		c.Restart(away)
		if err := s.Join(t.Context(), []string{c.Addr(leader), c.Addr(away)}); err != nil {
			t.Fatal(err)
		}
		c.WaitVoters(3)
		raftstoretest.Eventually(t, func() error {
			peers := c.Node(c.Leader()).Status(t.Context()).Peers
			if len(peers) != 3 {
				return fmt.Errorf("peers %+v", peers)
			}
			return nil
		})
		mustCommit(t, s, put("/k", "x"))
	})
}

// TestOnlyVoterLeaves: in a group of two, one replica votes. If it leaves, the other
// one must become the voter.
func TestOnlyVoterLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 2)
		mustCommit(t, c.Node("host2"), put("/k", "v"))
		if err := c.Node("host1").Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.Kill("host1")
		mustCommit(t, c.Node("host2"), put("/k", "w"))
		st := c.Node("host2").Status(t.Context())
		if len(st.Peers) != 1 || st.Peers[0].ID != "host2" || !st.Peers[0].Voter {
			t.Errorf("peers %+v", st.Peers)
		}
		// The last replica of a group stays.
		if err := c.Node("host2").Leave(t.Context()); err != nil {
			t.Errorf("last replica leaves: %v", err)
		}
		mustCommit(t, c.Node("host2"), put("/k", "x"))
	})
}

// TestFollowersSeeCommitsSoon: a quiet group must not wait for raft's own timeout
// to tell followers what is committed.
func TestFollowersSeeCommitsSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Timing.Heartbeat = 8 * time.Second // makes that timeout 250 ms to 500 ms
			cfg.Voters.Update = time.Second
		}))
		quickest := time.Hour
		for _, s := range c.Live() {
			if s.IsLeader() {
				continue
			}
			for i := range 10 {
				begin := time.Now()
				mustCommit(t, s, put("/k", fmt.Sprint(i)))
				quickest = min(quickest, time.Since(begin))
			}
		}
		if quickest > 150*time.Millisecond {
			t.Errorf("the quickest of 20 commits at followers took %s", quickest)
		}
	})
}

// TestForgottenReplicaComesBack: a replica that was cut off for so long that the group
// removed it asks by itself to be added again.
func TestForgottenReplicaComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 4, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.ForgetAfter = 100 * time.Millisecond
			cfg.Timing.Rejoin = 300 * time.Millisecond
		}))
		lost := "host4"
		c.Net.Cut(c.Addr(lost))
		c.SetHealth(lost, func(m *raftstore.MemberHealth) { m.Alive = false })
		others := func() *raftstore.Store {
			for _, s := range c.Live() {
				if s.IsLeader() && s != c.Node(lost) {
					return s
				}
			}
			return c.Node("host1")
		}
		known := func() bool {
			return slices.ContainsFunc(others().Status(t.Context()).Peers, func(p raftstore.PeerStatus) bool { return p.ID == lost })
		}
		raftstoretest.Eventually(t, func() error {
			if known() {
				return errors.New("not forgotten yet")
			}
			return nil
		})
		mustCommit(t, others(), put("/meanwhile", "v"))
		c.Net.Heal()
		c.SetHealth(lost, func(m *raftstore.MemberHealth) { m.Alive = true })
		raftstoretest.Eventually(t, func() error {
			_, _, err := c.Node(lost).Get(t.Context(), "/meanwhile", raftstore.ReadOptions{Consistency: raftstore.Local})
			return err
		})
	})
}
