package multimap_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"virtmesh/agent/multimap"
)

// TestMapFollowsModel adds and removes values as a map of maps would.
func TestMapFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var m multimap.Map[int, int]
		model := map[int]map[int]bool{}
		number := rapid.IntRange(0, 3)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			key, value := number.Draw(t, "key"), number.Draw(t, "value")
			if model[key] == nil {
				model[key] = map[int]bool{}
			}
			if rapid.Bool().Draw(t, "add") {
				m.Add(key, value)
				model[key][value] = true
			} else {
				m.Remove(key, value)
				delete(model[key], value)
			}
			for key := range 4 {
				var want []int
				for value := range 4 {
					if model[key][value] {
						want = append(want, value)
					}
				}
				if got := slices.Sorted(m.Values(key)); !slices.Equal(got, want) {
					t.Fatalf("values of %d are %v, want %v", key, got, want)
				}
			}
		}
	})
}
