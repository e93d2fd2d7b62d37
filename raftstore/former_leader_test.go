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

// A former leader's log reaches further than the snapshot that it gets from its successor, or
// just as far, with entries that were never committed. It goes on behind the snapshot, and
// gets the snapshot once.
func TestFormerLeaderGoesOnBehindASnapshot(t *testing.T) {
	for _, lost := range []int{101, 150} { // the snapshot is 101 entries behind the last common one
		t.Run(fmt.Sprint("lost: ", lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { replaceTail(t, lost) })
		})
	}
}

func replaceTail(t *testing.T, lost int) {
	turns := &turns{most: 20_000}
	c := following(t, 3, raftstoretest.WithConfig(shortLog), raftstoretest.WithConfig(func(cfg *raftstore.Config) {
		turns.count(cfg)
	}))
	former := c.Leader()
	s := c.Node(former)
	mustCommit(t, s, put("/before", "v"))
	others := slices.DeleteFunc([]string{"host1", "host2", "host3"}, func(id string) bool { return id == former })
	part(c, former, others, true)
	base := s.Status(t.Context()).LastIndex
	for i := range lost {
		raftstore.ProposeEntry(s, put(fmt.Sprint("/lost/", i), "v"))
	}
	time.Sleep(100 * time.Millisecond)
	if last := s.Status(t.Context()).LastIndex; last != base+uint64(lost) {
		t.Fatalf("the log of the former leader goes on to %d, want %d", last, base+uint64(lost))
	}
	next := c.Node(others[0])
	for i := range 100 {
		mustCommit(t, next, put(fmt.Sprint("/won/", i), "v"))
	}
	for _, id := range others {
		if err := c.Node(id).Snapshot(); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(base, lost, next.Status(t.Context()).LastIndex)
	turns.check(t, "until it is back")
	part(c, former, others, false)
	sees(t, s, "/won/99", "v")
	for i := range 5 {
		mustCommit(t, s, put(fmt.Sprint("/after/", i), "v"))
	}
	time.Sleep(time.Second)
	turns.check(t, "back")
	if got, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/lost/"}); err != nil || len(got.Records) > 0 {
		t.Errorf("it has %v, which were never committed, %v", got.Records, err)
	}
	if !raftstore.AgreesWithVoters(s) {
		t.Error("it differs from the voters")
	}
	c.Kill(former)
	back := c.Restart(former)
	mustCommit(t, back, put("/restarted", "v"))
	sees(t, back, "/after/4", "v")
}

// part loses, or no longer loses, what a host and others send to each other.
func part(c *raftstoretest.Cluster, host string, others []string, parted bool) {
	for _, other := range others {
		c.Net.Lose(c.Addr(host), c.Addr(other), parted)
		c.Net.Lose(c.Addr(other), c.Addr(host), parted)
	}
}
