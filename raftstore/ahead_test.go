package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A commit takes as long as one synced write, not as long as one at the leader and then one
// at a follower; and the entry goes to each follower once.
func TestCommitTakesOneSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sync = 20 * time.Millisecond
		disks := map[string]*raftstoretest.Disk{}
		for i := range 3 {
			disks[fmt.Sprint("host", i+1)] = raftstoretest.NewDisk()
		}
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.LogFiles = disks[cfg.NodeID].LogFiles
			cfg.Timing.Compare = 0
		}))
		leader := c.Leader()
		s := c.Node(leader)
		mustCommit(t, s, put("/k", "v")) // from here on the leader knows what the followers have
		time.Sleep(time.Second)
		for _, d := range disks {
			d.Slow(sync)
		}
		value := strings.Repeat("0123456789", 10<<10)
		before := c.Net.Sent(c.Addr(leader))
		var took []time.Duration
		for range 20 {
			begin := time.Now()
			mustCommit(t, s, put("/k", value))
			took = append(took, time.Since(begin))
		}
		slices.Sort(took)
		if got := took[len(took)/2]; got > sync*3/2 {
			t.Errorf("a commit takes %s, a sync %s", got, sync)
		}
		time.Sleep(time.Second)
		copies := float64(c.Net.Sent(c.Addr(leader))-before) / float64(20*len(value))
		if copies > 2.2 {
			t.Errorf("the leader sends each entry %.1f times to two followers", copies)
		}
	})
}

// A leader that cannot write an entry gives up the lead, and the entry, which the followers
// may have by then, is there for all or for nobody.
func TestLeaderCannotWriteWhatFollowersHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := map[string]*raftstoretest.Disk{}
		for i := range 3 {
			disks[fmt.Sprint("host", i+1)] = raftstoretest.NewDisk()
		}
		c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.LogFiles = disks[cfg.NodeID].LogFiles
		}))
		for n := range 5 {
			leader := c.Leader()
			mustCommit(t, c.Node(leader), put("/k", fmt.Sprint("before ", n)))
			disks[leader].Fill(true)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			want := fmt.Sprint("full ", n)
			_, err := c.Node(leader).Commit(ctx, put("/k", want))
			cancel()
			if err != nil && !errors.Is(err, raftstore.ErrUnknownOutcome) {
				t.Fatal(err)
			}
			disks[leader].Fill(false)
			after := fmt.Sprint("after ", n)
			mustCommit(t, c.Node(c.Leader()), put("/after", after))
			for _, s := range c.Live() {
				sees(t, s, "/after", after)
			}
			values := map[string]bool{}
			for _, s := range c.Live() {
				r, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{Consistency: raftstore.Local})
				if err != nil {
					t.Fatal(err)
				}
				values[string(r.Value)] = true
				if !raftstore.AgreesWithVoters(s) {
					t.Error("a replica differs from the voters")
				}
			}
			if len(values) != 1 {
				t.Errorf("replicas have %v", values)
			}
		}
	})
}
