package claims

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// Whatever stewards with old views try, and in whatever order, no host is
// overcommitted, no instance and no name runs twice, epochs only grow, and no
// volume has two writers.
func TestNoInterleavingBreaksTheRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := []string{"h1", "h2", "h3"}
		s := mesh(t, hosts...)
		w := &world{t: t, s: s, hosts: hosts, epochs: map[string]uint64{}, tenures: map[string]string{}}
		w.views = []view{w.look(), w.look(), w.look()}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step()
			w.check()
		}
	})
}

// view is what one steward believes.
type view struct {
	instances []Instance
	epochs    map[string]Epoch
	floor     Floor
	volume    Volume
}

type world struct {
	t      *rapid.T
	s      *objectstest.Store
	hosts  []string
	views  []view
	serial int
	epochs map[string]uint64
	// tenures are who had which epoch of a name.
	tenures map[string]string
}

var names = []string{"a", "b", "c"}

func (w *world) look() view {
	v := view{epochs: map[string]Epoch{}}
	for _, key := range w.s.Keys(instancePrefix) {
		v.instances = append(v.instances, read(w.t, w.s, types.UID(strings.TrimPrefix(key, instancePrefix))))
	}
	for _, n := range names {
		v.epochs[n] = epoch(w.t, w.s, n)
	}
	var err error
	if v.floor, err = GetFloor(context.Background(), w.s, raftstore.ReadOptions{}); err != nil {
		w.t.Fatal(err)
	}
	if v.volume, err = GetVolume(context.Background(), w.s, objects.Key{Namespace: "ns", Name: "disk"}, raftstore.ReadOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return v
}

// step lets one steward look again, or act on what it believes.
func (w *world) step() {
	i := rapid.IntRange(0, len(w.views)-1).Draw(w.t, "steward")
	v := w.views[i]
	host := rapid.SampledFrom(w.hosts).Draw(w.t, "host")
	act := rapid.IntRange(0, 8).Draw(w.t, "act")
	if act <= 1 {
		w.views[i] = w.look()
		return
	}
	if act == 8 {
		key := objects.Key{Namespace: "ns", Name: rapid.SampledFrom(names).Draw(w.t, "name")}
		if last := v.epochs[key.Name]; last.Revision != 0 {
			w.attempt(func(tx *objects.Tx) { ForgetEpochs(tx, v.floor, map[objects.Key]Epoch{key: last}) })
		}
		return
	}
	if act == 2 || len(v.instances) == 0 {
		name := rapid.SampledFrom(names).Draw(w.t, "name")
		in := inst(name, host, rapid.Int64Range(1, 3).Draw(w.t, "GiB"))
		w.serial++
		in.UID = types.UID(fmt.Sprint(name, "-", w.serial))
		w.attempt(func(tx *objects.Tx) { Place(tx, in, v.epochs[name]) })
		return
	}
	in := rapid.SampledFrom(v.instances).Draw(w.t, "instance")
	w.attempt(func(tx *objects.Tx) {
		switch act {
		case 3:
			Reserve(tx, in, host, v.epochs[in.Name])
		case 4:
			Switch(tx, in)
		case 5:
			CancelReservation(tx, in)
		case 6:
			Detach(tx, v.volume, in.UID)
			Release(tx, in)
		case 7:
			Attach(tx, v.volume, in.UID)
		}
	})
}

// attempt commits; only the refusals that the rules know are acceptable.
func (w *world) attempt(build func(tx *objects.Tx)) {
	err := try(w.s, build)
	_, refused := objects.Refused(err)
	if err == nil || refused || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) {
		return
	}
	if strings.Contains(err.Error(), "no migration target") || strings.Contains(err.Error(), "cannot be its migration target") {
		return
	}
	w.t.Fatal(err)
}

// checkTenure checks that nobody else ever had an epoch.
func (w *world) checkTenure(name string, epoch uint64, who string) {
	tenure := fmt.Sprint(name, " ", epoch)
	if other, taken := w.tenures[tenure]; taken && other != who {
		w.t.Fatalf("epoch %d of %s belongs to %s and to %s", epoch, name, other, who)
	}
	w.tenures[tenure] = who
}

func (w *world) check() {
	byName := map[string]types.UID{}
	entries := map[string]bool{}
	v := w.look()
	for _, in := range v.instances {
		if other, dup := byName[in.Name]; dup {
			w.t.Fatalf("%s runs as %s and as %s", in.Name, other, in.UID)
		}
		byName[in.Name] = in.UID
		if v.epochs[in.Name].Epoch < max(in.Epoch, in.TargetEpoch) || v.epochs[in.Name].UID != in.UID {
			w.t.Fatalf("%+v does not have the epoch of its name, %+v", in, v.epochs[in.Name])
		}
		w.checkTenure(in.Name, in.Epoch, string(in.UID)+" on "+in.Host)
		if in.Target != "" {
			w.checkTenure(in.Name, in.TargetEpoch, string(in.UID)+" on "+in.Target)
		}
		for _, h := range in.Hosts() {
			entries[hostKey(h, in.UID)] = true
		}
	}
	for _, key := range w.s.Keys(hostPrefix) {
		if !entries[key] {
			w.t.Fatalf("%s is named by no instance", key)
		}
		delete(entries, key)
	}
	if len(entries) != 0 {
		w.t.Fatalf("missing %v", entries)
	}
	for _, h := range w.hosts {
		var sum machine.Resources
		for _, in := range v.instances {
			if slices.Contains(in.Hosts(), h) {
				sum = sum.Add(in.Resources)
			}
		}
		if sum.MemoryBytes > 4*gib {
			w.t.Fatalf("%s is overcommitted: %+v", h, sum)
		}
	}
	for n, e := range v.epochs {
		if e.Revision == 0 {
			if e.nextEpoch() <= w.epochs[n] {
				w.t.Fatalf("%s would get epoch %d again", n, e.nextEpoch())
			}
			continue
		}
		if e.Epoch < w.epochs[n] {
			w.t.Fatalf("the epoch of %s went from %d to %d", n, w.epochs[n], e.Epoch)
		}
		w.epochs[n] = e.Epoch
	}
	if len(v.volume.Holders) > 1 {
		w.t.Fatalf("the volume has holders %v", v.volume.Holders)
	}
}
