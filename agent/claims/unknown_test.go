package claims

import (
	"bytes"
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// storeNewer adds to every claim in the store what only a newer version writes, and
// returns the keys of those claims.
func storeNewer(t *testing.T, s *objectstest.Store) (keys []string) {
	t.Helper()
	for _, key := range s.Keys(Prefix) {
		rec, _, err := s.Get(t.Context(), key, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if json.Unmarshal(rec.Value, &v) != nil {
			continue // the entries on hosts are not JSON; they are never changed
		}
		v["newer"] = map[string]any{"a": 1}
		value, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		must(t, s, func(tx *objects.Tx) { tx.Put(key, value) })
		keys = append(keys, key)
	}
	return keys
}

// TestOlderVersionKeepsClaimsOfANewerOne: hosts of different versions change the same
// claims, and none drops what another has noted in them.
func TestOlderVersionKeepsClaimsOfANewerOne(t *testing.T) {
	s := mesh(t, "h1", "h2", "h3")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), epoch(t, s, "a")) })
	for _, name := range []string{"b", "c"} {
		must(t, s, func(tx *objects.Tx) { Place(tx, inst(name, "h3", 1), epoch(t, s, name)) })
	}
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("gone", "h1", 1), epoch(t, s, "gone")) })
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "gone-uid")) })
	must(t, s, func(tx *objects.Tx) { Attach(tx, Volume{Namespace: "ns", Claim: "disk", Shared: true}, "a-uid") })
	must(t, s, func(tx *objects.Tx) { SetLimits(tx, Limits{Total: 1}) })
	must(t, s, func(tx *objects.Tx) {
		ForgetEpochs(tx, Floor{}, map[objects.Key]Epoch{{Namespace: "ns", Name: "gone"}: epoch(t, s, "gone")})
	})
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("gone", "h1", 1), epoch(t, s, "gone")) })
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "gone-uid")) })
	if keys := storeNewer(t, s); len(keys) != 3+3+4+3 {
		t.Fatalf("these are claims: %v; want capacities, instances, epochs, a volume, limits and the floor", keys)
	}
	volume := func() Volume {
		v, err := GetVolume(t.Context(), s, objects.Key{Namespace: "ns", Name: "disk"}, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		name  string
		write func(tx *objects.Tx)
	}{
		{"publish", func(tx *objects.Tx) {
			c, err := GetCapacity(t.Context(), s, "h1", raftstore.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			c.Allocatable = machine.Resources{CPUMilli: 9000, MemoryBytes: 3 * gib}
			Publish(tx, c)
		}},
		{"limits", func(tx *objects.Tx) {
			l, err := GetLimits(t.Context(), s, raftstore.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			l.Total++
			SetLimits(tx, l)
		}},
		{"reserve", func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h3", epoch(t, s, "a")) }},
		{"cancel", func(tx *objects.Tx) { CancelReservation(tx, read(t, s, "a-uid")) }},
		{"reserve again", func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h2", epoch(t, s, "a")) }},
		{"switch", func(tx *objects.Tx) { Switch(tx, read(t, s, "a-uid")) }},
		{"attach", func(tx *objects.Tx) { Attach(tx, volume(), "b-uid") }},
		{"detach", func(tx *objects.Tx) { Detach(tx, volume(), "b-uid") }},
		{"the same name", func(tx *objects.Tx) {
			next := inst("gone", "h3", 1)
			next.UID = types.UID("next")
			Place(tx, next, epoch(t, s, "gone"))
		}},
		{"recovery", func(*objects.Tx) { recovered(t, s, 2000, "h1") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			keys := storeNewer(t, s)
			must(t, s, c.write)
			for _, key := range keys {
				rec, _, err := s.Get(t.Context(), key, raftstore.ReadOptions{})
				if err != nil || !bytes.Contains(rec.Value, []byte(`"newer":{"a":1}`)) {
					t.Errorf("%s became %s (%v)", key, rec.Value, err)
				}
			}
		})
	}
}
