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

// Writers that wait for each other's entry share the next one: on average half of them
// do, since the other half waits for its outcome. No commit takes longer than two entries.
func TestWritersShareEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const writers, each, took = 100, 20, 20 * time.Millisecond
		disks := map[string]*raftstoretest.Disk{}
		for i := range 3 {
			disks[fmt.Sprint("host", i+1)] = raftstoretest.NewDisk()
		}
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.LogFiles = disks[cfg.NodeID].LogFiles
			cfg.Timing.Compare = 0
		}))
		s := c.Node(c.Leader())
		mustCommit(t, s, put("/k", "v")) // from here on the leader knows what the followers have
		time.Sleep(time.Second)
		for _, d := range disks {
			d.Slow(took)
		}
		before, begin := s.Status(t.Context()).AppliedIndex, time.Now()
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for n := range each {
					mustCommit(t, s, put(fmt.Sprint("/w/", w), fmt.Sprint(n)))
				}
			})
		}
		wg.Wait()
		if entries := s.Status(t.Context()).AppliedIndex - before; entries > 2*each+2 {
			t.Errorf("%d writers made %d entries of %d commits each", writers, entries, each)
		}
		if all := time.Since(begin); all > (2*each+2)*took {
			t.Errorf("%d commits of each writer took %s, an entry %s", each, all, took)
		}
	})
}
