package raftstore_test

import (
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// waitVoters waits until just these hosts vote, and one of them leads.
func waitVoters(t *testing.T, c *raftstoretest.Cluster, want ...string) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		leader := c.Leader()
		if leader == "" || !slices.Contains(want, leader) {
			return fmt.Errorf("%q leads, and one of %q should", leader, want)
		}
		if voters := c.Node(leader).Status(t.Context()).Voters; !slices.Equal(voters, want) {
			return fmt.Errorf("%q vote, and %q should", voters, want)
		}
		return nil
	})
}

// Hosts that may not vote any more hand their votes over, the leader too, while the group
// goes on; nobody else that may not vote takes their places when a voter dies.
func TestVotersFollowALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var limit atomic.Pointer[raftstore.VoterLimit]
		limit.Store(&raftstore.VoterLimit{})
		c := following(t, 5, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.Limit = func(*raftstore.Store) raftstore.VoterLimit { return *limit.Load() }
		}))
		follower(t, c)
		first := c.Leader()
		var others []string
		for i := range 5 {
			if name := fmt.Sprintf("host%d", i+1); name != first {
				others = append(others, name)
			}
		}
		limit.Store(&raftstore.VoterLimit{Nodes: others[1:]}) // one voter at most stays
		waitVoters(t, c, others[1:]...)
		for i, s := range c.Live() {
			mustCommit(t, s, put("/k", fmt.Sprint(i)))
		}
		dead := others[1]
		c.Kill(dead)
		time.Sleep(2 * time.Minute)
		waitVoters(t, c, others[1:]...) // the vote of the dead one is kept for it
		mustCommit(t, c.Node(first), put("/k", "with a dead voter"))
		limit.Store(&raftstore.VoterLimit{Exclude: []string{dead}})
		raftstoretest.Eventually(t, func() error {
			if voters := c.Node(c.Leader()).Status(t.Context()).Voters; len(voters) != 3 || slices.Contains(voters, dead) {
				return fmt.Errorf("%q vote", voters)
			}
			return nil
		})
	})
}

// The only host that may vote hands its vote to nobody, so that the limit holds.
func TestTheOnlyOneThatMayVoteHasNoHeir(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 1, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.Limit = func(*raftstore.Store) raftstore.VoterLimit { return raftstore.VoterLimit{Nodes: []string{"host1"}} }
		}))
		for _, name := range []string{"host2", "host3"} {
			c.Add(name)
		}
		time.Sleep(30 * time.Second)
		waitVoters(t, c, "host1")
		if err := c.Node("host1").Resign(t.Context()); !errors.Is(err, raftstore.ErrMayNotVote) {
			t.Errorf("it resigned: %v", err)
		}
		if err := c.Node("host1").TransferLeadership(t.Context()); !errors.Is(err, raftstore.ErrMayNotVote) {
			t.Errorf("it handed over: %v", err)
		}
		mustCommit(t, c.Node("host2"), put("/k", "v"))
		waitVoters(t, c, "host1")
	})
}
