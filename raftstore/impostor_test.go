package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// No host speaks to another one's Raft in the name of a third one, and who does not vote does
// not lead: the voters go on in their term, with what they have.
func TestNobodyLeadsInAnothersName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 4)
		hostile := c.Node(follower(t, c))
		leader := c.Node(c.Leader())
		r := mustCommit(t, leader, put("/k", "v"))
		c.WaitRevision(r.Revision)
		if err := hostile.Snapshot(); err != nil {
			t.Fatal(err)
		}
		voter := c.Node(slices.DeleteFunc(raftstore.Configuration(leader), func(id string) bool { return id == c.Leader() })[0])
		before := voter.Status(t.Context())
		for _, as := range []*raftstore.Store{leader, hostile} {
			for what, err := range raftstore.SayAs(hostile, voter, as) {
				if err == nil || !strings.Contains(err.Error(), "must not say") {
					t.Errorf("%s as %s: %v", what, as.Status(t.Context()).NodeID, err)
				}
			}
			if granted, _ := raftstore.AskForVoteAs(hostile, voter, as); granted {
				t.Errorf("it votes for %s", as.Status(t.Context()).NodeID)
			}
		}
		if now := voter.Status(t.Context()); now.Term != before.Term || now.LastIndex != before.LastIndex || !leader.IsLeader() {
			t.Errorf("a voter was in term %d with %d entries, and is in term %d with %d", before.Term, before.LastIndex, now.Term, now.LastIndex)
		}
		mustCommit(t, voter, put("/k", "w"))
	})
}

// Only the leader says what is committed.
func TestOnlyTheLeaderAnnounces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 4, raftstoretest.WithConfig(func(cfg *raftstore.Config) { cfg.Timing.Heartbeat = 2 * time.Second }))
		hostile := c.Node(follower(t, c))
		id := c.Leader()
		leader := c.Node(id)
		voters := slices.DeleteFunc(raftstore.Configuration(leader), func(v string) bool { return v == id })
		voter := c.Node(voters[0])
		time.Sleep(5 * time.Second) // until all is at rest
		// The leader's last entry reaches one voter, and nobody hears the answer.
		c.Net.Lose(c.Addr(voters[1]), c.Addr(id), true)
		c.Net.Lose(c.Addr(id), c.Addr(voters[1]), true)
		c.Net.Lose(c.Addr(voters[0]), c.Addr(id), true)
		before := leader.Status(t.Context()).LastIndex
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, _ = leader.Commit(ctx, put("/lost", "v"))
		if last := voter.Status(t.Context()).LastIndex; last != before+1 {
			t.Fatal("the entry did not reach the voter: this test shows nothing")
		}
		if err := raftstore.AnnounceAs(t.Context(), hostile, voter); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Millisecond)
		if now := raftstore.CommitIndex(voter); now > before {
			t.Errorf("a host that does not lead has committed entry %d", now)
		}
	})
}

// What concerns one host only that host asks of the leader. A host that is no member any more
// is removed by whoever asks.
func TestNobodyAsksTheLeaderInAnothersName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 5)
		var followers []string
		raftstoretest.Eventually(t, func() error {
			followers = followers[:0]
			for name, p := range peers(t, c) {
				if p.Follower && p.Healthy {
					followers = append(followers, name)
				}
			}
			if len(followers) != 2 {
				return fmt.Errorf("followers are %v", followers)
			}
			return nil
		})
		hostile, other, leader := c.Node(followers[0]), c.Node(followers[1]), c.Node(c.Leader())
		for what, err := range raftstore.AskLeaderAs(t.Context(), hostile, leader, other) {
			if err == nil || !strings.Contains(err.Error(), followers[0]) {
				t.Errorf("%s in the name of another host: %v", what, err)
			}
		}
		time.AfterFunc(300*time.Millisecond, func() { c.Remove(followers[1]) }) // the leader hears of it late
		if err := hostile.RemoveReplica(t.Context(), followers[1]); err != nil {
			t.Errorf("the replica of a host that is no member: %v", err)
		}
		// A request that passes through another host is the joiner's own.
		c.Add("host6")
	})
}

// An answer counts for a voter, or the leader, only if it comes from its host.
func TestAnImpostorConfirmsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var swapped atomic.Bool
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			peerOf := cfg.PeerOf
			cfg.PeerOf = func(conn net.Conn) string {
				if swapped.Load() {
					return "host9"
				}
				return peerOf(conn)
			}
		}))
		mustCommit(t, c.Live()[0], put("/k", "v"))
		swapped.Store(true)
		for _, id := range []string{"host1", "host2", "host3"} {
			c.Net.Hangup(c.Addr(id))
		}
		for _, s := range c.Live() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, _, err := s.Get(ctx, "/k", raftstore.ReadOptions{}); !errors.Is(err, raftstore.ErrNoLeader) {
				t.Errorf("a linearizable read while other hosts answer: %v", err)
			}
			cancel()
		}
		swapped.Store(false)
		mustCommit(t, c.Live()[0], put("/k", "w"))
	})
}

// A voter that was away while most of the others were replaced learns who they are, and goes
// on; it believes what they say when they have signed it.
func TestAVoterThatWasAwayMeetsNewVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 3, raftstoretest.WithConfig(quickRejoin))
		id := c.Leader()
		others := slices.DeleteFunc([]string{"host1", "host2", "host3"}, func(h string) bool { return h == id })
		away, first := others[0], others[1]
		time.Sleep(6 * time.Second)
		c.Kill(away)
		c.SetHealth(away, func(m *raftstore.MemberHealth) { m.Alive = true }) // so that it keeps its vote
		for _, name := range []string{"host4", "host5"} {
			if err := raftstore.AddVoter(c.Node(c.Leader()), c.Add(name)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(6 * time.Second)
		mustCommit(t, c.Node(c.Leader()), put("/k", "v"))
		t.Log(raftstore.Configuration(c.Node(c.Leader())), first)
		leadAt(t, c, "host4")
		back := c.Restart(away)
		sees(t, back, "/k", "v")
		mustConfirm(t, back)
	})
}
