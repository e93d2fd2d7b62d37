package gossip_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
)

// bigFacts need several packets.
func bigFacts() gossip.Facts {
	f := gossip.Facts{
		MeshAddr: "10.0.0.9:7443", Zone: "rack-7", Version: "v1.2.3", FeatureLevel: 4, KVM: true,
		Allocatable: gossip.Resources{CPUMilli: 64000, MemoryBytes: 512 << 30,
			Hugepages: map[string]int64{"2Mi": 1024, "1Gi": 16}, Devices: map[string]int64{"nvidia.com/gpu": 4}},
		Free:   gossip.Resources{CPUMilli: 1000, MemoryBytes: 3 << 30, Hugepages: map[string]int64{"2Mi": 7}},
		Pools:  map[string]gossip.Pool{"default": {Capacity: 1 << 40, Free: 1 << 39}},
		Load:   0.5,
		Labels: map[string]string{"topology.kubernetes.io/zone": "rack-7"},
	}
	for i := range 60 {
		f.CPUModels = append(f.CPUModels, fmt.Sprintf("Some-CPU-Model-%d-noTSX-IBRS", i))
		f.Images = append(f.Images, fmt.Sprintf("%012x", i*7919))
	}
	return f
}

func awaitFacts(t *testing.T, m *gossiptest.Mesh, of string, want gossip.Facts, limit time.Duration) {
	t.Helper()
	if !m.Await(limit, func(g *gossip.Gossip) bool {
		p, ok := g.Member(of)
		return ok && reflect.DeepEqual(p.Facts, want)
	}) {
		for _, g := range m.Members {
			if p, _ := g.Member(of); !reflect.DeepEqual(p.Facts, want) {
				t.Fatalf("%s has facts of %s:\n%+v\nwant\n%+v", g.Name(), of, p.Facts, want)
			}
		}
	}
}

func TestFactsReachEveryone(t *testing.T) {
	for _, tc := range []struct {
		members int
		loss    float64
	}{{3, 0}, {30, 0}, {30, 0.05}} {
		t.Run(fmt.Sprintf("members=%d/loss=%v", tc.members, tc.loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startMesh(t, tc.members)
				m.Network.SetLoss(tc.loss)
				of := m.Members[1]
				if err := of.SetFacts(bigFacts()); err != nil {
					t.Fatal(err)
				}
				// Gossip takes a second or two; whom it misses gets the facts
				// from the next comparison with another member.
				limit := time.Minute
				awaitFacts(t, m, of.Name(), bigFacts(), limit)

				// Many changes in a row end in the last one.
				last := bigFacts()
				for i := range 50 {
					last.Free.CPUMilli = int64(i)
					last.Load = float64(i) / 4
					if err := of.SetFacts(last); err != nil {
						t.Fatal(err)
					}
				}
				awaitFacts(t, m, of.Name(), last, limit+2*time.Second)
			})
		})
	}
}

func TestJoiningMemberGetsAllFacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 5)
		if err := m.Members[3].SetFacts(bigFacts()); err != nil {
			t.Fatal(err)
		}
		awaitFacts(t, m, gossiptest.Name(3), bigFacts(), 3*time.Second)
		if err := m.Add(nil); err != nil {
			t.Fatal(err)
		}
		p, ok := m.Members[5].Member(gossiptest.Name(3))
		if !ok || !reflect.DeepEqual(p.Facts, bigFacts()) {
			t.Errorf("right after the join: %+v", p)
		}
	})
}

func TestRestartWithClockSetBackIsNotIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Hour)
		m := startMesh(t, 3)
		future := gossip.Facts{Version: "before"}
		if err := m.Add(func(_ int, c *gossip.Config) { c.Facts = future }); err != nil {
			t.Fatal(err)
		}
		old := m.Members[3]
		awaitFacts(t, m, old.Name(), future, 5*time.Second)
		// Its clock is an hour ahead, and set right before it restarts.
		gossip.AdvanceFactVersions(old, time.Hour)
		future.Version = "before, ahead"
		time.Sleep(2 * time.Second)
		if err := old.SetFacts(future); err != nil {
			t.Fatal(err)
		}
		awaitFacts(t, m, old.Name(), future, 5*time.Second)
		if err := old.Leave(context.Background()); err != nil {
			t.Fatal(err)
		}
		m.Remove(old.Name())

		again := gossip.Facts{Version: "after"}
		if err := m.AddNamed(old.Name(), func(_ int, c *gossip.Config) { c.Facts = again }); err != nil {
			t.Fatal(err)
		}
		awaitFacts(t, m, old.Name(), again, 10*time.Second)
	})
}

func TestSetFactsRefusesWhatCannotBeGossiped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 1)
		g := m.Members[0]
		for name, f := range map[string]gossip.Facts{
			"models":  {CPUModels: []string{strings.Repeat("x", 20000)}},
			"address": {MeshAddr: strings.Repeat("x", 600)},
		} {
			if err := g.SetFacts(f); !errors.Is(err, gossip.ErrFactsTooLarge) {
				t.Errorf("%s: got %v, want ErrFactsTooLarge", name, err)
			}
		}
		if p, _ := g.Member(g.Name()); p.Facts.MeshAddr != "host1:7443" {
			t.Errorf("refused facts were taken over: %+v", p.Facts)
		}
	})
}

// TestUnchangedFactsAreNotSent: a host that says the same again and again costs the mesh
// nothing.
func TestUnchangedFactsAreNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 3)
		f := bigFacts()
		if err := m.Members[0].SetFacts(f); err != nil {
			t.Fatal(err)
		}
		awaitFacts(t, m, m.Members[0].Name(), f, 10*time.Second)
		sub := m.Members[1].Subscribe()
		defer sub.Close()
		<-sub.Events() // the first event says that the reader must read everything
		for range 180 {
			time.Sleep(5 * time.Second)
			if err := m.Members[0].SetFacts(f.Clone()); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case ev := <-sub.Events():
			t.Errorf("a quarter of an hour without a change: %+v", ev)
		default:
		}
	})
}

// TestLargeFactsAreGossipedInPart: capacity, load and the cordon of a host must not
// freeze because the host has more images or labels than fit.
func TestLargeFactsAreGossipedInPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 2)
		f := bigFacts()
		f.Unschedulable, f.Free.CPUMilli = true, 123
		for i := range 400 {
			f.Images = append(f.Images, fmt.Sprintf("registry.example.org/images/disk@sha256:%064d", i))
		}
		for i := range 40 {
			f.Labels[fmt.Sprintf("example.org/label-%d", i)] = strings.Repeat("x", 63)
		}
		if err := m.Members[0].SetFacts(f); err != nil {
			t.Fatal(err)
		}
		p, _ := m.Members[0].Member(m.Members[0].Name())
		if got := p.Facts; len(got.Images) == 0 || len(got.Images) >= len(f.Images) || !slices.Equal(got.Images, f.Images[:len(got.Images)]) || len(got.Labels) != len(f.Labels) {
			t.Errorf("of %d images and %d labels %d and %d are left", len(f.Images), len(f.Labels), len(got.Images), len(got.Labels))
		}
		awaitFacts(t, m, m.Members[0].Name(), p.Facts, 10*time.Second)
		f.Labels["long"] = strings.Repeat("x", 20000)
		if err := m.Members[0].SetFacts(f); err != nil {
			t.Fatal(err)
		}
		if p, _ = m.Members[0].Member(m.Members[0].Name()); p.Facts.Labels != nil || p.Facts.Images != nil || p.Facts.Free.CPUMilli != 123 {
			t.Errorf("%+v", p.Facts)
		}
	})
}

// TestVersionsOfFactsAreBounded: neither a forged version nor one that was written while
// the member's clock was wrong may keep a member's later facts from the others.
func TestVersionsOfFactsAreBounded(t *testing.T) {
	for name, ahead := range map[string]time.Duration{
		"the furthest that is accepted": gossip.MaxAhead, "a little further": gossip.MaxAhead + time.Hour, "the end of time": 1 << 62,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startMesh(t, 3)
				victim := m.Members[2]
				forged := bigFacts()
				forged.Version = "forged"
				for _, g := range m.Members {
					gossip.ForgeFacts(g, victim.Name(), ahead, forged)
				}
				time.Sleep(time.Minute)
				f := bigFacts()
				f.Version = "true"
				if err := victim.SetFacts(f); err != nil {
					t.Fatal(err)
				}
				awaitFacts(t, m, victim.Name(), f, 2*time.Minute)
			})
		})
	}
}

func TestFactsAreCopied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 1)
		g := m.Members[0]
		f := bigFacts()
		if err := g.SetFacts(f); err != nil {
			t.Fatal(err)
		}
		f.Labels["new"] = "label"
		f.CPUModels[0] = "changed"
		if p, _ := g.Member(g.Name()); !reflect.DeepEqual(p.Facts, bigFacts()) {
			t.Error("the caller's later changes are seen")
		}
	})
}

func TestMeshAddrIsKnownWithTheMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startMesh(t, 2)
		f := gossip.Facts{MeshAddr: "elsewhere:1", FeatureLevel: 7}
		if err := m.Members[0].SetFacts(f); err != nil {
			t.Fatal(err)
		}
		awaitFacts(t, m, m.Members[0].Name(), f, 3*time.Second)
	})
}
