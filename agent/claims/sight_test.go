package claims

import (
	"testing"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// sightNow is what a view that has heard of everything has seen.
func sightNow(t *testing.T, s *objectstest.Store) Sight {
	t.Helper()
	_, revision, err := s.Get(t.Context(), floorKey, raftstore.ReadOptions{})
	if err != nil && revision == 0 {
		t.Fatal(err)
	}
	sight := Sight{Revision: revision, Guards: map[string]uint64{}}
	for _, ns := range []string{"ns", "other", AllNamespaces} {
		rec, ok, err := getRecord(t.Context(), s, guardKey(ns), raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			sight.Guards[ns] = rec.ModRevision
		}
	}
	return sight
}

// Two decisions are made on the same view, and written one after the other.
func TestOfTwoDecisionsThatContradictTheSecondIsOutdated(t *testing.T) {
	var plain Regard
	counts, counts2 := Regard{Counted: []string{"ns"}}, Regard{Counted: []string{"other"}}
	apart := Regard{Counted: []string{"ns"}, KeptOut: []string{"ns"}}
	everywhere := Regard{Counted: []string{AllNamespaces}, KeptOut: []string{AllNamespaces}}
	for name, tc := range map[string]struct {
		first, second Regard
		firstNS       string
		outdated      bool
	}{
		"without rules":                    {plain, plain, "ns", false},
		"after one that counts":            {counts, plain, "ns", false},
		"after one that keeps others away": {apart, plain, "ns", true},
		"after one that keeps all away":    {everywhere, plain, "other", true},
		"counting what was placed":         {plain, counts, "ns", true},
		"counting elsewhere":               {plain, counts2, "ns", false},
		"counting everywhere":              {plain, everywhere, "other", true},
		"keeping each other away":          {apart, apart, "ns", true},
	} {
		t.Run(name, func(t *testing.T) {
			s := mesh(t, "h1", "h2")
			must(t, s, func(tx *objects.Tx) { Place(tx, inst("before", "h1", 1), Epoch{}) })
			sight := sightNow(t, s)
			place := func(name, ns string, r Regard, s2 Sight) error {
				in := inst(name, "h2", 1)
				in.Namespace = ns
				return try(s, func(tx *objects.Tx) { Depend(tx, Place(tx, in, Epoch{}), r, s2) })
			}
			if err := place("first", tc.firstNS, tc.first, sight); err != nil {
				t.Fatal(err)
			}
			err := place("second", "ns", tc.second, sight)
			if Outdated(err) != tc.outdated || (err != nil) != tc.outdated {
				t.Fatalf("the second: %v, want outdated: %v", err, tc.outdated)
			}
			if err == nil {
				return
			}
			if err := place("second", "ns", tc.second, sightNow(t, s)); err != nil {
				t.Errorf("decided anew: %v", err)
			}
		})
	}
}

func TestWhatIsKnownOrGoneOutdatesNothing(t *testing.T) {
	s := mesh(t, "h1", "h2")
	sight := sightNow(t, s)
	counts := Regard{Counted: []string{"ns"}}
	place := func(known ...Known) error {
		seen := sight
		seen.Known = known
		return try(s, func(tx *objects.Tx) { Depend(tx, Place(tx, inst("b", "h1", 1), Epoch{}), counts, seen) })
	}
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	if err := place(); !Outdated(err) {
		t.Errorf("with one that was not seen: %v", err)
	}
	if err := place(Known{"a-uid", "h2"}); !Outdated(err) {
		t.Errorf("with one that was counted on another host: %v", err)
	}
	if err := place(Known{"a-uid", "h1"}); err != nil {
		t.Errorf("with one that was counted: %v", err)
	}
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "b-uid")) })
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "a-uid")) })
	if err := try(s, func(tx *objects.Tx) { Depend(tx, Place(tx, inst("c", "h1", 1), Epoch{}), counts, sight) }); err != nil {
		t.Errorf("with one that is gone: %v", err)
	}
}
