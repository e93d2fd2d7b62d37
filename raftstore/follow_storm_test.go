package raftstore_test

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestBootStorm: many hosts that all need a snapshot get it from each other. No source sends
// more than its rate, and writes go on meanwhile.
func TestBootStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const hosts, rate, state = 40, 2 << 20, 6 << 20
		c := following(t, 3, raftstoretest.WithConfig(asInProduction), raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Voters.Max = 3
			cfg.Limits.TrailingBytes, cfg.Limits.SnapshotFeedBytes = 1, rate
		}))
		leader := c.Node(c.Leader())
		var last uint64
		for i := range state / (64 << 10) {
			last = mustCommit(t, leader, raftstore.Txn{Ops: []raftstore.Op{{Key: fmt.Sprint("/k/", i), Value: make([]byte, 64<<10)}}}).Revision
		}
		for i := range 100 {
			last = mustCommit(t, leader, put(fmt.Sprint("/small/", i), "v")).Revision
		}
		for _, s := range c.Live() {
			if err := s.Snapshot(); err != nil {
				t.Fatal(err)
			}
		}
		before := c.Net.Sent(c.Addr(c.Leader()))
		began := time.Now()
		var joins sync.WaitGroup
		for i := range hosts {
			joins.Go(func() { c.Add(fmt.Sprintf("new%d", i+1)) })
		}
		writes := 0
		done := make(chan struct{})
		go func() { joins.Wait(); close(done) }()
		for waiting := true; waiting; {
			select {
			case <-done:
				waiting = false
			case <-time.After(time.Second):
				last = mustCommit(t, leader, put("/meanwhile", fmt.Sprint(writes))).Revision
				writes++
			}
		}
		took := time.Since(began)
		sent := c.Net.Sent(c.Addr(c.Leader())) - before
		t.Logf("%d hosts have a state of %d MiB after %v; the leader has sent %d MiB", hosts, state>>20, took, sent>>20)
		// One after the other from one source they would need two minutes.
		if took > time.Minute {
			t.Errorf("%d hosts got a state of %d MiB in %v", hosts, state>>20, took)
		}
		if limit := int64(rate*took.Seconds()) + rate; sent > limit {
			t.Errorf("the leader has sent %d bytes in %v, at a rate of %d", sent, took, rate)
		}
		awaitAll(t, c, last)
		awaitTree(t, c, hosts+3)
	})
}
