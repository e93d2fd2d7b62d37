package place

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	machine "virtmesh/agent/vmi"
)

// Whatever comes and goes, no host is given more than it has, the books agree
// with a snapshot made afresh, and equal snapshots decide the same.
func TestSnapshotProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := NewSnapshot()
		hosts := map[string]Host{}
		placed := map[string]Instance{}
		n := rapid.IntRange(1, 60).Draw(t, "steps")
		for i := range n {
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0:
				name := fmt.Sprint("h", rapid.IntRange(0, 5).Draw(t, "host"))
				h := host(name, memory(int64(rapid.IntRange(0, 8).Draw(t, "gib"))*gib))
				if used := usedOn(placed, name); used.MemoryBytes <= h.Allocatable.MemoryBytes {
					hosts[name] = h
					s.SetHost(h)
				}
			case 1:
				name := fmt.Sprint("h", rapid.IntRange(0, 5).Draw(t, "host"))
				delete(hosts, name)
				s.RemoveHost(name)
			case 2:
				for uid := range placed {
					delete(placed, uid)
					s.RemoveInstance(uid)
					break
				}
			default:
				vmi := instance(fmt.Sprint("vm", i))
				r, err := NewRequest(vmi, DefaultPolicy())
				if err != nil {
					t.Fatal(err)
				}
				d, err := s.Place(r)
				if err != nil {
					continue
				}
				in := Instance{UID: r.UID, Namespace: r.Namespace, Labels: r.Labels, Hosts: []string{d}, Resources: r.Resources}
				placed[in.UID] = in
				s.SetInstance(in)
			}
		}
		fresh := NewSnapshot()
		for _, in := range placed {
			fresh.SetInstance(in)
		}
		for _, h := range hosts {
			fresh.SetHost(h)
		}
		for name := range hosts {
			a, b := s.byName[name].free, fresh.byName[name].free
			if !a.Equal(b) {
				t.Fatalf("%s: incremental books say %+v, a fresh count %+v", name, a, b)
			}
			if a.CPUMilli < 0 || a.MemoryBytes < 0 {
				t.Fatalf("%s is overcommitted: %+v", name, a)
			}
		}
		r, _ := NewRequest(instance("last"), DefaultPolicy())
		da, ea := s.Place(r)
		db, eb := fresh.Place(r)
		if da != db || (ea == nil) != (eb == nil) {
			t.Fatalf("decisions differ: %v %v and %v %v", da, ea, db, eb)
		}
	})
}

func usedOn(placed map[string]Instance, host string) machine.Resources {
	var sum machine.Resources
	for _, in := range placed {
		if slices.Contains(in.Hosts, host) {
			sum = sum.Add(in.Resources)
		}
	}
	return sum
}
