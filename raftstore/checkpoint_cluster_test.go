package raftstore_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// All replicas find the same hash of their states after a checkpoint, one that has only
// just got its copy as a snapshot too. Reads, watches and restarts pass over checkpoints.
func TestReplicasAgreeAtACheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		small := raftstoretest.WithConfig(func(cfg *raftstore.Config) {
			cfg.Limits.SnapshotEntries, cfg.Limits.TrailingBytes = 8, 1
		})
		c := raftstoretest.NewCluster(t, 3, small)
		c.Kill("host3")
		for i := range 50 {
			mustCommit(t, c.Live()[0], put("/k", fmt.Sprint(i)))
			if i == 25 {
				raftstore.MakeCheckpoint(t, c.Node(c.Leader()))
			}
		}
		c.Restart("host3")
		c.WaitRevision(c.Live()[0].Revision())
		watch, err := c.Node("host3").Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		before := c.Live()[0].Revision()
		index := raftstore.MakeCheckpoint(t, c.Node(c.Leader()))
		hashes := map[string]bool{}
		for _, s := range c.Live() {
			raftstoretest.Eventually(t, func() error {
				hash, ok := raftstore.CheckpointHash(s, index)
				if !ok {
					return fmt.Errorf("%s has no hash at %d", s.Status(t.Context()).NodeID, index)
				}
				hashes[hash] = true
				return nil
			})
			if s.Revision() != before {
				t.Errorf("a checkpoint changed the revision from %d to %d", before, s.Revision())
			}
		}
		if len(hashes) != 1 {
			t.Errorf("the replicas have %d different states: %v", len(hashes), hashes)
		}
		next := mustCommit(t, c.Live()[0], put("/k", "after"))
		for _, id := range []string{"host1", "host2", "host3"} {
			if id == "host3" {
				if e := <-watch.Events(); e.Revision != next.Revision {
					t.Errorf("the watch saw %+v, %v; want the write behind the checkpoint", e, watch.Err())
				}
			}
			c.Kill(id)
			s := c.Restart(id)
			raftstoretest.WaitServing(t, s)
			if r, _, err := s.Get(t.Context(), "/k", raftstore.ReadOptions{}); err != nil || string(r.Value) != "after" {
				t.Errorf("%s started again behind a checkpoint: %s, %v", id, r.Value, err)
			}
		}
	})
}
