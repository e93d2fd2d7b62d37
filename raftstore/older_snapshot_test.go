package raftstore_test

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"virtmesh/raftstore"
)

// A snapshot that is older than the log reaches a replica: the leader sends it to a follower
// that is being promoted, as it does not know what the follower's source has brought it; or
// the network delivers it late. The replica keeps its log: it goes on, and starts again.
func TestOlderSnapshotLeavesTheLog(t *testing.T) {
	for _, votes := range []bool{false, true} {
		t.Run(fmt.Sprint("votes: ", votes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { sendOlderSnapshot(t, votes) })
		})
	}
}

func sendOlderSnapshot(t *testing.T, votes bool) {
	c := following(t, 4)
	name := follower(t, c)
	leader := c.Node(c.Leader())
	if votes {
		voters := raftstore.Configuration(leader)
		name = voters[slices.IndexFunc(voters, func(id string) bool { return id != c.Leader() })]
	}
	write := func(from, to int) {
		for i := from; i < to; i++ {
			mustCommit(t, leader, put(fmt.Sprint("/k/", i), "v"))
		}
		sees(t, c.Node(name), fmt.Sprint("/k/", to-1), "v")
	}
	write(0, 10)
	if err := leader.Snapshot(); err != nil {
		t.Fatal(err)
	}
	write(10, 20)
	if err := raftstore.SendSnapshot(leader, c.Node(name)); err != nil {
		t.Fatal(err)
	}
	write(20, 30)
	c.Kill(name)
	s := c.Restart(name)
	mustCommit(t, leader, put("/after", "v"))
	sees(t, s, "/after", "v")
	got, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
	if err != nil || len(got.Records) != 30 || !raftstore.AgreesWithVoters(s) {
		t.Errorf("it has %d of 30 records, %v", len(got.Records), err)
	}
}
