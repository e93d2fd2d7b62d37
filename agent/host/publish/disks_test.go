package publish

import (
	"testing"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// A host publishes its file systems once the mesh counts what is promised there, and sizes that
// wander a little cost no writes.
func TestDisksArePublishedFromTheirLevelOn(t *testing.T) {
	run(t, func(b *bench) {
		b.describe(func(d *Description) {
			d.Disks = []claims.Disk{{State: true, Pools: []string{"local"}, Bytes: 1000}, {Pools: []string{"fast"}, Bytes: 5000}}
		})
		published := func() []claims.Disk {
			time.Sleep(time.Minute)
			c, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
			if err != nil {
				b.Fatal(err)
			}
			return c.Disks
		}
		if got := published(); got != nil {
			b.Errorf("at level 1: %+v", got)
		}
		b.store.SetFeatureLevel(level.Apart)
		if got := published(); len(got) != 2 || got[0].Bytes != 1000 || !got[0].State || got[1].Pools[0] != "fast" {
			b.Errorf("at level %d: %+v", level.Apart, got)
		}
		before := b.store.Commits()
		b.describe(func(d *Description) {
			d.Disks = []claims.Disk{{State: true, Pools: []string{"local"}, Bytes: 990}, d.Disks[1]}
		})
		if got := published(); got[0].Bytes != 1000 || b.store.Commits() != before {
			b.Errorf("after a small change: %+v, %d commits", got, b.store.Commits()-before)
		}
		b.describe(func(d *Description) {
			d.Disks = []claims.Disk{{State: true, Pools: []string{"local"}, Bytes: 970}, d.Disks[1]}
		})
		if got := published(); got[0].Bytes != 970 {
			b.Errorf("after a change: %+v", got)
		}
		// While a pool has not answered yet, what was published stays.
		b.describe(func(d *Description) { d.Disks = nil })
		if got := published(); len(got) != 2 {
			b.Errorf("without an answer: %+v", got)
		}
	})
}
