package raftstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A host that reboots gets the entries that it has missed, however many and however often
// the others have taken snapshots meanwhile: its watches go on where they were. One that
// was away for longer than the log stays gets a snapshot.
func TestRebootIsServedFromTheLog(t *testing.T) {
	for _, tc := range []struct {
		name  string
		away  time.Duration
		bytes uint64
		want  error
	}{
		{"within the time", time.Minute, 256 << 20, nil},
		{"after the time", 2 * time.Minute, 256 << 20, raftstore.ErrCompacted},
		{"more than the log may take", time.Minute, 100 << 10, raftstore.ErrCompacted},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(cfg *raftstore.Config) {
					cfg.Limits.SnapshotEntries, cfg.Limits.TrailingFloor = 100, 1000
					cfg.Limits.TrailingBytes, cfg.Limits.TrailingTime = tc.bytes, 90*time.Second
					cfg.Limits.SegmentBytes = 4096 // a log file is only ever removed as a whole
					cfg.Timing.Compare = 0
				}))
				leader, away := c.Leader(), "host1"
				if leader == away {
					away = "host2"
				}
				before := mustCommit(t, c.Node(leader), put("/k", "v"))
				c.WaitRevision(before.Revision)
				c.Kill(away)
				write := func(n int) (last raftstore.TxnResult) {
					for i := range n {
						last = mustCommit(t, c.Node(leader), put(fmt.Sprint("/k/", i%50), strings.Repeat("v", 1000)))
					}
					return last
				}
				write(250)
				time.Sleep(tc.away)
				last := write(250)
				time.Sleep(time.Second) // and the last snapshot
				s := c.Restart(away)
				c.WaitRevision(last.Revision)
				w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: before.Revision})
				if !errors.Is(err, tc.want) {
					t.Fatalf("watch over the reboot: %v, want %v", err, tc.want)
				}
				if tc.want != nil {
					return
				}
				for n := range 500 {
					if e := <-w.Events(); e.Revision != before.Revision+uint64(n)+1 {
						t.Fatalf("event %d has revision %d, want %d", n, e.Revision, before.Revision+uint64(n)+1)
					}
				}
			})
		})
	}
}
