package raftstore_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A voter was off while two others were replaced, and then the last two die that it knows. Three of
// five voters are on, and nobody leads: the voter refuses those that vote by a configuration that
// it does not have, and they cannot tell it, see DESIGN.md. One that it knows is enough.
func TestAVoterThatKnowsNobodyWhoIsOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 5, raftstoretest.WithConfig(func(cfg *raftstore.Config) { cfg.Voters.Max = 5 }))
		c.WaitVoters(5)
		first := c.Leader()
		others := slices.DeleteFunc([]string{"host1", "host2", "host3", "host4", "host5"}, func(name string) bool { return name == first })
		stale, known := others[0], others[3]
		kill := func(name string) {
			c.Kill(name)
			c.SetHealth(name, func(m *raftstore.MemberHealth) { m.Alive = false })
			time.Sleep(30 * time.Second)
		}
		replace := func(name, by string) {
			kill(name)
			c.Add(by)
			raftstoretest.Eventually(t, func() error {
				if voters := c.Node(c.Leader()).Voters(); len(voters) != 5 || !slices.Contains(voters, by) || slices.Contains(voters, name) {
					return fmt.Errorf("%q vote", voters)
				}
				return nil
			})
		}
		kill(stale)
		replace(others[1], "host6")
		replace(others[2], "host7")
		mustCommit(t, c.Node("host7"), put("/k", "v"))
		if voters := c.Node("host7").Voters(); !slices.Contains(voters, stale) {
			t.Fatalf("%q vote", voters)
		}
		c.Kill(first)
		c.Kill(known)
		c.SetHealth(stale, func(m *raftstore.MemberHealth) { m.Alive = true })
		c.Restart(stale)
		time.Sleep(time.Minute)
		for _, s := range c.Live() {
			if s.IsLeader() {
				t.Errorf("%s leads: the limit of the library that DESIGN.md tells of is gone", s.Status(t.Context()).NodeID)
			}
		}
		c.Restart(known)
		mustCommit(t, c.Node(c.Leader()), put("/k", "w"))
		sees(t, c.Node(stale), "/k", "w")
	})
}
