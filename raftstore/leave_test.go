package raftstore_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// end ends the membership of a host whose replica has resigned, and lets the replica leave.
func end(t *testing.T, c *raftstoretest.Cluster, name string) {
	t.Helper()
	s := c.Node(name)
	mustCommit(t, s, put("/record", name+" has none")) // the host itself removes its record
	c.Remove(name)
	c.Keys.End(name)
	if err := s.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Kill(name)
}

// A host that nobody believes any more once its membership has ended hands over its vote
// before. The others go on, also those that follow the only voter: each knows that what it has
// is the group's.
func TestResignBeforeTheMembershipEnds(t *testing.T) {
	for _, shape := range []struct {
		hosts int
		young bool // only the founder votes yet
	}{{hosts: 2}, {3, true}, {5, true}, {hosts: 3}, {hosts: 4}, {hosts: 6}} {
		t.Run(fmt.Sprintf("%d hosts, of which one votes: %v", shape.hosts, shape.young || shape.hosts < 3), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := following(t, 1)
				setAlive := func(alive bool) {
					for i := 2; i <= shape.hosts; i++ {
						c.SetHealth(fmt.Sprintf("host%d", i), func(m *raftstore.MemberHealth) { m.Alive = alive })
					}
				}
				for i := 2; i <= shape.hosts; i++ {
					c.Add(fmt.Sprintf("host%d", i))
					setAlive(!shape.young) // gossip has not heard of them yet
				}
				mustCommit(t, c.Node("host2"), put("/k", "v"))
				time.Sleep(20 * time.Second) // who should vote does, and who follows has a feed
				leader := c.Leader()
				s := c.Node(leader)
				if voters := s.Status(t.Context()).Voters; shape.young && len(voters) != 1 {
					t.Fatalf("voters are %v", voters)
				}
				setAlive(true)
				for range 2 { // it may be repeated
					if err := s.Resign(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				if id := c.Leader(); id == leader || slices.Contains(s.Status(t.Context()).Voters, leader) {
					t.Fatalf("%s has resigned, and %s leads the voters %v", leader, id, s.Status(t.Context()).Voters)
				}
				mustConfirm(t, s)
				end(t, c, leader)
				mustCommit(t, c.Node(c.Leader()), put("/k", "w"))
				for _, other := range c.Live() {
					sees(t, other, "/k", "w")
					mustConfirm(t, other)
				}
			})
		})
	}
}

// The heir of the only voter keeps its vote until it leads, also where one voter is enough: autopilot
// looks many times meanwhile.
func TestTheHeirKeepsItsVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 1, raftstoretest.WithConfig(func(cfg *raftstore.Config) { cfg.Voters.Max = 1 }))
		for _, name := range []string{"host2", "host3", "host4"} {
			c.Add(name)
		}
		mustCommit(t, c.Node("host2"), put("/k", "v"))
		time.Sleep(20 * time.Second)
		s := c.Node("host1")
		if err := s.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		if id := c.Leader(); id == "host1" || slices.Contains(s.Status(t.Context()).Voters, "host1") {
			t.Fatalf("host1 has resigned, and %s leads", id)
		}
		end(t, c, "host1")
		mustCommit(t, c.Node(c.Leader()), put("/k", "w"))
		c.WaitVoters(1)
	})
}

// The only voter does not lead for a moment after its start. It waits for that before it resigns or
// leaves, and does not take itself for the last replica.
func TestTheOnlyVoterResignsBeforeItLeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 1)
		for _, name := range []string{"host2", "host3"} {
			c.Add(name)
			c.SetHealth(name, func(m *raftstore.MemberHealth) { m.Alive = false }) // host1 stays the only voter
		}
		mustCommit(t, c.Node("host2"), put("/k", "v"))
		time.Sleep(20 * time.Second)
		c.Kill("host1")
		s := c.Restart("host1")
		if voters := s.Voters(); s.IsLeader() || !slices.Equal(voters, []string{"host1"}) {
			t.Fatalf("host1 leads: %t; %q vote", s.IsLeader(), voters)
		}
		for _, name := range []string{"host2", "host3"} {
			c.SetHealth(name, func(m *raftstore.MemberHealth) { m.Alive = true })
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := s.Resign(ctx); err != nil {
			t.Fatal(err)
		}
		if id := c.Leader(); id == "host1" || slices.Contains(s.Status(t.Context()).Voters, "host1") {
			t.Fatalf("host1 has resigned, and %s leads the voters %q", id, s.Status(t.Context()).Voters)
		}
		end(t, c, "host1")
		mustCommit(t, c.Node(c.Leader()), put("/k", "w"))
	})
}

// A replica that has resigned gets no vote while its host is about to leave. If the host stays,
// it gets one in the end.
func TestWhoHasResignedIsNotAskedToVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 3)
		s := c.Node("host2")
		if err := s.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			time.Sleep(time.Second)
			if voters := c.Node(c.Leader()).Status(t.Context()).Voters; slices.Contains(voters, "host2") {
				t.Fatalf("voters are %v", voters)
			}
		}
		mustCommit(t, s, put("/k", "v"))
		time.Sleep(5 * time.Minute)
		c.WaitVoters(3)
	})
}

// Nobody takes the vote of another host.
func TestOnlyTheHostItselfResigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 3)
		time.Sleep(time.Second)
		leader := c.Leader()
		others := slices.DeleteFunc([]string{"host1", "host2", "host3"}, func(name string) bool { return name == leader })
		err := raftstore.ResignFor(t.Context(), c.Node(others[0]), others[1])
		wantError(t, "resigned for another host", err, raftstore.ErrInvalidTxn, others[1])
	})
}

// The last replica of a group keeps its vote.
func TestTheLastReplicaKeepsItsVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 1)
		if err := c.Node("host1").Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustCommit(t, c.Node("host1"), put("/k", "v"))
	})
}
