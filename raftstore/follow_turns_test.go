package raftstore_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A follower that its leader took into the configuration, and that then lost it, asks the
// voters whether it follows. They have not heard of that, nor of another leader. It asks now
// and then, and does not do so without a pause.
func TestAnOrphanedRecruitAsksNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := &turns{most: 5_000}
		c := following(t, 4, raftstoretest.WithConfig(turns.count))
		name := follower(t, c)
		id := c.Leader()
		others := slices.DeleteFunc(raftstore.Configuration(c.Node(id)), func(v string) bool { return v == id })
		part(c, id, others, true)
		part(c, others[0], others[1:], true)
		go func() { _ = raftstore.AddNonvoter(c.Node(id), c.Node(name)) }()
		raftstoretest.Eventually(t, func() error {
			return raftstore.IsIn(c.Node(name), name)
		})
		turns.check(t, "until it is in the configuration")
		c.Net.Cut(c.Addr(id))
		for range 10 {
			time.Sleep(100 * time.Millisecond)
			turns.check(t, "a tenth of a second without the leader")
		}
		c.Net.Heal()
		mustCommit(t, c.Node(name), put("/k", "v"))
	})
}
