package raftstore_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Whatever fails, no replica asks, sends or searches without a pause: in fake time, a loop that
// waits for nothing would never end. In the end all have one state, and can confirm it.
func TestFaultsCostFewTurns(t *testing.T) {
	seed := uint64(time.Now().UnixNano()) // before time is fake
	synctest.Test(t, func(t *testing.T) {
		t.Logf("seed: %d", seed)
		rng := rand.New(rand.NewPCG(seed, 0))
		turns := &turns{most: 20_000}
		c := following(t, 6, raftstoretest.WithConfig(shortLog), raftstoretest.WithConfig(quickRejoin), raftstoretest.WithConfig(turns.count))
		hosts := []string{"host1", "host2", "host3", "host4", "host5", "host6"}
		time.Sleep(6 * time.Second) // until all know the voters
		for range 25 {
			do, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			for _, s := range c.Live() {
				for i := range rng.IntN(30) {
					go func() { _, _ = s.Commit(do, put(fmt.Sprint("/k/", i), "v")) }()
				}
				if s.IsLeader() && rng.IntN(2) == 0 {
					go func() { _ = s.TransferLeadership(do) }()
				}
			}
			<-do.Done()
			cancel()
			disturbOnce(t.Context(), c, hosts, rng)
			turns.check(t, "a disturbance")
		}
		c.Net.Heal()
		last := mustCommit(t, c.Node(c.Leader()), put("/end", "v"))
		c.WaitRevision(last.Revision)
		turns.check(t, "healed")
		for _, s := range c.Live() {
			mustConfirm(t, s)
			if !raftstore.AgreesWithVoters(s) {
				t.Error("a replica differs from the voters")
			}
		}
		turns.check(t, "confirmed")
	})
}
