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

// Writers that wait for each other's entry share the next one: two do as well as many, where
// they would take turns if an entry did not wait for the writers of the last one. A commit
// takes one entry, not two.
func TestWritersShareEntries(t *testing.T) {
	for _, writers := range []int{1, 2, 3, 100} {
		t.Run(fmt.Sprint(writers), func(t *testing.T) { testWritersShareEntries(t, writers) })
	}
}

func testWritersShareEntries(t *testing.T, writers int) {
	synctest.Test(t, func(t *testing.T) {
		const each, took = 20, 20 * time.Millisecond
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
		if entries := s.Status(t.Context()).AppliedIndex - before; entries > each+3 {
			t.Errorf("%d writers made %d entries of %d commits each", writers, entries, each)
		}
		if all := time.Since(begin); all > (each+3)*took {
			t.Errorf("%d commits of each writer took %s, an entry %s", each, all, took)
		}
	})
}
