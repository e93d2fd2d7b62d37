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

// Followers confirm what they were fed, entries and snapshots, over restarts; and still do
// when all voters of their beginning were replaced one by one while they followed.
func TestFollowersConfirm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 6, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Limits.TrailingBytes, cfg.Limits.SegmentBytes = 1, 8192
		}))
		confirmAll := func(when string) {
			t.Helper()
			c.WaitRevision(mustCommit(t, c.Node(c.Leader()), put("/when", when)).Revision)
			for _, s := range c.Live() {
				mustConfirm(t, s)
			}
		}
		confirmAll("at first")
		name := follower(t, c)
		if raftstore.FedTo(c.Node(name)) == 0 || raftstore.FedTo(c.Node(c.Leader())) != 0 {
			t.Fatal("the follower was not fed, or the leader was")
		}
		c.Kill(name)
		for i := range 300 {
			mustCommit(t, c.Node(c.Leader()), put(fmt.Sprintf("/k/%03d", i), "0123456789012345678901234567890123456789"))
		}
		for _, s := range c.Live() {
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		c.Restart(name)
		confirmAll("behind a snapshot")
		first := c.Node(c.Leader()).Status(t.Context()).Voters
		for _, voter := range first {
			c.Kill(voter)
			raftstoretest.Eventually(t, func() error {
				if now := c.Node(c.Leader()).Status(t.Context()).Voters; len(now) != 3 || slices.Contains(now, voter) {
					return fmt.Errorf("voters are %v, %s is dead", now, voter)
				}
				return nil
			})
			time.Sleep(20 * time.Second) // statements go around
			confirmAll("without " + voter)
		}
		for _, s := range c.Live() {
			id := s.Status(t.Context()).NodeID
			c.Kill(id)
			c.Restart(id)
			confirmAll("after a restart of " + id)
		}
	})
}

// A mesh that is off as a whole, right after followers were promoted and fed, comes up and
// confirms.
func TestAPromotedMeshConfirmsAfterAPowerCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := following(t, 6)
		mustCommit(t, c.Node(c.Leader()), put("/k", "v"))
		first := c.Node(c.Leader()).Status(t.Context()).Voters
		for _, voter := range first {
			c.Kill(voter)
			raftstoretest.Eventually(t, func() error {
				if now := c.Node(c.Leader()).Status(t.Context()).Voters; len(now) != 3 || slices.Contains(now, voter) {
					return fmt.Errorf("voters are %v, %s is dead", now, voter)
				}
				return nil
			})
			time.Sleep(6 * time.Second)
		}
		var left []string
		for _, s := range c.Live() {
			left = append(left, s.Status(t.Context()).NodeID)
		}
		for _, id := range left {
			c.Kill(id)
		}
		for _, id := range left {
			c.Restart(id)
		}
		c.WaitRevision(mustCommit(t, c.Node(c.Leader()), put("/k", "again")).Revision)
		for _, s := range c.Live() {
			mustConfirm(t, s)
		}
	})
}

// BenchmarkConfirm measures Confirm on a replica that was never fed.
func BenchmarkConfirm(b *testing.B) {
	s := raftstoretest.New(b)
	for b.Loop() {
		if err := s.Confirm(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
