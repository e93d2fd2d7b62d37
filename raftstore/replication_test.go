package raftstore_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestFollowerCatchesUpAfterSilence: a follower falls silent under load again and again,
// as one that loses its power does. Each time it is back it gets what it has missed, and
// all replicas can be closed: a leader whose replication hangs cannot, and then this test
// does not end.
func TestFollowerCatchesUpAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		leader := c.Leader()
		follower := "host1"
		if follower == leader {
			follower = "host2"
		}
		write := func(n int) uint64 {
			t.Helper()
			result, err := c.Node(leader).Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: fmt.Sprint("/", n), Value: []byte("x")}}})
			if err != nil {
				t.Fatal(err)
			}
			return result.Revision
		}
		for round := range 20 {
			c.Net.Silence(c.Addr(follower))
			for n := range 100 {
				write(n)
				time.Sleep(50 * time.Millisecond)
			}
			c.Net.Heal()
			want := write(round)
			for end := time.Now().Add(raftstoretest.ReadyTimeout); c.Node(follower).Revision() < want; time.Sleep(time.Second) {
				if time.Now().After(end) {
					t.Fatalf("round %d: the follower is at revision %d and gets no further, want %d", round, c.Node(follower).Revision(), want)
				}
			}
		}
	})
}
