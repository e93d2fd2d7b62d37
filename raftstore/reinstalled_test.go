package raftstore_test

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A voter that was away while the host of another voter was installed again follows that
// one when it leads, although it knows its address as that of the replica before.
func TestVoterThatWasAwayFollowsAReinstalledLeader(t *testing.T) {
	for _, level := range []uint32{raftstore.BaseLevel, raftstore.FollowersLevel} {
		t.Run(fmt.Sprint("level", level), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { followReinstalled(t, level) })
		})
	}
}

func followReinstalled(t *testing.T, level uint32) {
	c := raftstoretest.NewCluster(t, 5, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
		cfg.FeatureLevel = raftstore.LevelRange{Lowest: raftstore.BaseLevel, Highest: level}
		cfg.Voters.Max = 5
	}))
	c.WaitVoters(5)
	first := c.Leader()
	others := slices.DeleteFunc([]string{"host1", "host2", "host3", "host4", "host5"}, func(h string) bool { return h == first })
	away, wiped := others[0], others[1]
	time.Sleep(6 * time.Second) // the others are stable
	c.Kill(away)
	c.SetHealth(away, func(m *raftstore.MemberHealth) { m.Alive = true })
	c.Kill(wiped)
	if err := os.RemoveAll(c.Config(wiped).DataDir); err != nil {
		t.Fatal(err)
	}
	s := c.Restart(wiped)
	if err := s.Join(t.Context(), []string{c.Addr(first)}); err != nil {
		t.Fatal(err)
	}
	c.WaitVoters(5)
	leadAt(t, c, wiped)
	mustCommit(t, s, put("/k", "v"))
	back := c.Restart(away)
	raftstoretest.Eventually(t, func() error {
		r, _, err := back.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local})
		if err == nil && string(r.Value) != "v" {
			err = fmt.Errorf("it is %q", r.Value)
		}
		return err
	})
}
