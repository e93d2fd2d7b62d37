package stewards

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// leader is a second witness in a mesh of so many hosts. It hears nobody but the hosts
// named.
type leader struct {
	records int

	mu    sync.Mutex
	hears map[string]bool
	away  bool
	asked int
}

// FarFewer implements Witness.
func (l *leader) FarFewer(live int) bool { return live*3 < l.records*2 }

// Confirm implements Witness.
func (l *leader) Confirm(_ context.Context, live []string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked++
	if l.away {
		return false, errors.New("no leader")
	}
	heard := len(l.hears)
	for _, name := range live {
		if l.hears[name] {
			heard--
		}
	}
	return heard == 0, nil
}

func (l *leader) set(away bool, hears ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away, l.hears = away, map[string]bool{}
	for _, name := range hears {
		l.hears[name] = true
	}
}

func (l *leader) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.asked
}

// TestStewardsHoldStill: whether a host may act on what it sees of the membership.
func TestStewardsHoldStill(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e", "f"}
	for _, c := range []struct {
		name      string
		live      []string
		heard     []string // by the leader
		away      bool     // no leader answers
		holdStill bool
	}{
		{name: "everybody lives", live: all, heard: all},
		{name: "one is lost", live: all[:5], heard: all[:5]},
		{name: "one has lost gossip alone: too few to stop for", live: all[:5], heard: all},
		{name: "half are dead to both witnesses", live: all[:3], heard: all[:3]},
		{name: "gossip is split in two, and Raft is well", live: all[:3], heard: all, holdStill: true},
		{name: "this host's gossip is cut off", live: all[:1], heard: all, holdStill: true},
		{name: "most are gone, and no leader knows", live: all[:2], away: true, holdStill: true},
		{name: "the only one that is left", live: all[:1], heard: all[:1]},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mesh{names: c.live}
				witness := &leader{records: len(all)}
				witness.set(c.away, c.heard...)
				s := NewStewardship(StewardshipConfig{Self: "a", Members: m, Witness: witness})
				defer s.Close()
				time.Sleep(time.Minute)
				if s.HoldsStill() != c.holdStill {
					t.Fatalf("holds still: %v", s.HoldsStill())
				}
				mine := 0
				for i := range 100 {
					if s.Mine("scope", key(i)) {
						mine++
					}
				}
				if (mine == 0) != c.holdStill {
					t.Errorf("handles %d of 100 keys", mine)
				}
			})
		})
	}
}

// TestKeysAreHandledOnceTheWitnessAgrees: keys that nobody handled while the stewards
// held still are handled by exactly one host when they go on, whichever way the doubt
// ends, and there is no doubt left that asks the leader for ever.
func TestKeysAreHandledOnceTheWitnessAgrees(t *testing.T) {
	all := []string{"a", "b", "c", "d"}
	for name, end := range map[string]func(m *mesh, l *leader){
		"gossip heals":               func(m *mesh, _ *leader) { m.set(all...) },
		"the others fall silent too": func(_ *mesh, l *leader) { l.set(false, "a") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &mesh{names: all}
				witness := &leader{records: len(all)}
				witness.set(false, all...)
				var h handled
				src := &keys{}
				cfg := testSteward(src, func(_ context.Context, k Key) (Result, error) {
					h.add(k)
					return Result{}, nil
				})
				deps := quiet()
				deps.Stewardship = NewStewardship(StewardshipConfig{Self: "a", Members: m, Witness: witness})
				defer deps.Stewardship.Close()
				c, stop := start(t, deps, cfg)
				defer stop()
				m.set("a")
				time.Sleep(time.Minute)
				for i := range 40 {
					src.mu.Lock()
					src.known = append(src.known, key(i))
					src.mu.Unlock()
					c.Enqueue(key(i))
				}
				time.Sleep(time.Hour)
				for i := range 40 {
					if n := h.count(key(i)); n != 0 {
						t.Errorf("key %d was handled while the stewards hold still", i)
					}
				}
				end(m, witness)
				time.Sleep(time.Minute)
				for i := range 40 {
					want := 0
					if deps.Stewardship.Mine(c.Declaration().Scope, key(i)) {
						want = 1
					}
					if n := h.count(key(i)); n != want {
						t.Errorf("key %d handled %d times, want %d", i, n, want)
					}
				}
				before := witness.count()
				time.Sleep(time.Hour)
				if asked := witness.count() - before; asked > 3600/int(confirmEvery/time.Second)+1 {
					t.Errorf("asked the leader %d times in an hour", asked)
				}
			})
		})
	}
}
