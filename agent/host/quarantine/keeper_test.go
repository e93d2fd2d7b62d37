package quarantine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
)

// TestHostLeavesQuarantine: a host leaves quarantine when every guest that it runs has a
// claim on it, and never for another host.
func TestHostLeavesQuarantine(t *testing.T) {
	stewardstest.Run(t, func(w *stewardstest.World) {
		var mu sync.Mutex
		running := map[types.UID]bool{"claimed": true, "unknown": true, "elsewhere": true}
		unreadable := true
		keeper, err := New(w.Host("h1").Deps, "h1", func(context.Context) ([]types.UID, error) {
			mu.Lock()
			defer mu.Unlock()
			if unreadable {
				return nil, errors.New("libvirt does not answer")
			}
			var list []types.UID
			for uid := range running {
				list = append(list, uid)
			}
			return list, nil
		})
		w.Check(err)
		for _, host := range []string{"h1", "h2"} {
			w.Commit(func(tx *objects.Tx) { claims.Publish(tx, claims.Capacity{Host: host}) })
		}
		for name, host := range map[string]string{"claimed": "h1", "elsewhere": "h2"} {
			w.Commit(func(tx *objects.Tx) {
				claims.Place(tx, claims.Instance{Namespace: "ns", Name: name, UID: types.UID(name), Host: host}, claims.Epoch{})
			})
		}
		_, err = w.Store.Commit(t.Context(), raftstore.Txn{RequestID: "recovery", Ops: claims.BeginTimeline(nothing{}, 1000, []string{"h1", "h2"})})
		w.Check(err)
		w.Run(keeper.Run)
		quarantined := func() int { return len(w.Store.Keys("/claims/quarantine/")) }
		step := func(what string, want int, change func()) {
			t.Helper()
			mu.Lock()
			change()
			mu.Unlock()
			time.Sleep(2 * time.Minute)
			if n := quarantined(); n != want {
				t.Errorf("%s: %d hosts are in quarantine, want %d", what, n, want)
			}
		}
		step("nobody knows what runs", 2, func() {})
		step("guests without a claim run", 2, func() { unreadable = false })
		step("a guest that another host has a claim on runs", 2, func() { delete(running, "unknown") })
		step("only claimed guests run", 1, func() { delete(running, "elsewhere") })
		if keys := w.Store.Keys("/claims/quarantine/"); len(keys) != 1 || keys[0] != "/claims/quarantine/h2" {
			t.Errorf("in quarantine: %v", keys)
		}
	})
}

// nothing is a state without records.
type nothing struct{}

func (nothing) Get(string) (raftstore.Record, bool)        { return raftstore.Record{}, false }
func (nothing) Ascend(string, func(raftstore.Record) bool) {}
