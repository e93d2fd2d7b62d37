package stewards

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestKeysAreHandledByTheirStewardOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 300
		src := &keys{}
		for i := range n {
			src.known = append(src.known, key(i))
		}
		m := &mesh{names: []string{"a", "b", "c"}}
		hosts := map[string]*handled{}
		var stops []func()
		for _, name := range m.names {
			h := &handled{}
			hosts[name] = h
			cfg := testSteward(src, func(_ context.Context, k Key) (Result, error) {
				h.add(k)
				return Result{}, nil
			})
			deps := quiet()
			deps.Stewardship = NewStewardship(StewardshipConfig{Self: name, Members: m})
			_, stop := start(t, deps, cfg)
			stops = append(stops, stop)
		}
		time.Sleep(time.Second)
		for i := range n {
			if sum := hosts["a"].count(key(i)) + hosts["b"].count(key(i)) + hosts["c"].count(key(i)); sum != 1 {
				t.Errorf("key %d handled %d times, want 1", i, sum)
			}
		}
		// c dies: its keys, and only those, are handled by a or b.
		m.set("a", "b")
		time.Sleep(time.Second)
		for i := range n {
			sum := hosts["a"].count(key(i)) + hosts["b"].count(key(i))
			if sum != 1 {
				t.Errorf("key %d handled %d times by a and b, want 1", i, sum)
			}
		}
		for _, stop := range stops {
			stop()
		}
	})
}

func TestLosersDropKeysThatMovedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &mesh{names: []string{"a"}}
		s := NewStewardship(StewardshipConfig{Self: "a", Members: m})
		var h handled
		src := &keys{known: []Key{key(1)}}
		cfg := testSteward(src, func(_ context.Context, k Key) (Result, error) {
			h.add(k)
			return Result{RequeueAfter: time.Minute}, nil
		})
		deps := quiet()
		deps.Stewardship = s
		_, stop := start(t, deps, cfg)
		time.Sleep(time.Second)
		m.set("z-not-a")
		time.Sleep(time.Hour)
		stop()
		if n := h.count(key(1)); n != 1 {
			t.Errorf("handled %d times, want 1", n)
		}
	})
}

// Rendezvous hashing must be even, and must move only the keys of a member
// that left or the share of one that came.
func TestRendezvousProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9-]{1,12}`), 2, 20, rapid.ID).Draw(t, "names")
		before := newRendezvous("x", names)
		gone := rapid.SampledFrom(names).Draw(t, "gone")
		after := newRendezvous("x", slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == gone }))
		for i := range 200 {
			h := hashKey("vm", key(i))
			if w := before.winner(h); w != gone && after.winner(h) != w {
				t.Fatalf("key %d moved from %q to %q when %q left", i, w, after.winner(h), gone)
			}
		}
	})
}

func TestRendezvousIsEven(t *testing.T) {
	var names []string
	for i := range 50 {
		names = append(names, fmt.Sprint("host", i))
	}
	r := newRendezvous("x", names)
	share := map[string]int{}
	const n = 50000
	for i := range n {
		share[r.winner(hashKey("vm", key(i)))]++
	}
	for _, name := range names {
		if got := share[name]; got < 850 || got > 1150 {
			t.Errorf("%s has %d of %d keys, want about %d", name, got, n, n/50)
		}
	}
}

// The hash is part of the contract between releases: hosts of different
// versions must agree.
func TestStewardIsStable(t *testing.T) {
	r := newRendezvous("x", []string{"host1", "host2", "host3"})
	got := ""
	for i := range 12 {
		got += r.winner(hashKey("virtualmachines", key(i)))[4:]
	}
	if want := "312113222312"; got != want {
		t.Errorf("stewards %s, want %s", got, want)
	}
}
