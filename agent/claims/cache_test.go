package claims

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// newCache returns a cache that the test feeds itself.
func newCache(t interface{ Fatal(...any) }, s objects.Store) *Cache {
	return newCacheThatLogs(t, s, slog.New(slog.DiscardHandler))
}

func newCacheThatLogs(t interface{ Fatal(...any) }, s objects.Store, log *slog.Logger) *Cache {
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = s, log
	oc, err := objects.NewCache(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return NewCache(oc, cfg.Logger)
}

// refill gives the cache all claims of the store, as a broken watch makes necessary.
func refill(t interface{ Fatal(...any) }, s objects.Store, c *Cache) {
	list, err := s.List(context.Background(), raftstore.ListRequest{Prefix: Prefix})
	if err != nil {
		t.Fatal(err)
	}
	c.Reset(list.Records, list.Revision)
}

// held is all that a cache tells when it is asked.
func held(c *Cache) map[string]any {
	instances, migrations := map[types.UID]Instance{}, map[types.UID]Migration{}
	for _, in := range c.Instances() {
		instances[in.UID] = in
	}
	for _, m := range c.Migrations() {
		migrations[m.UID] = m
	}
	capacities, volumes := map[string]Capacity{}, map[string]Volume{}
	for _, host := range cacheHosts {
		if capacity, ok := c.Capacity(host); ok {
			capacities[host] = capacity
		}
	}
	for _, claim := range cacheVolumes {
		volumes[claim] = c.Volume(objects.Key{Namespace: "ns", Name: claim})
	}
	spaces := map[string]map[string]Space{}
	for _, host := range cacheHosts {
		spaces[host] = map[string]Space{}
		for _, taken := range c.SpacesOn(host) {
			spaces[host][taken.Claim] = taken
		}
	}
	onHost, volumesOf := map[string]map[types.UID]Instance{}, map[types.UID]map[string]Volume{}
	for _, host := range cacheHosts {
		onHost[host] = map[types.UID]Instance{}
		for _, in := range c.OnHost(host) {
			onHost[host][in.UID] = in
		}
	}
	for uid := range instances {
		volumesOf[uid] = map[string]Volume{}
		for _, v := range c.VolumesOf(uid) {
			volumesOf[uid][v.Claim] = v
		}
	}
	return map[string]any{
		"onHost": onHost, "volumesOf": volumesOf, "instances": instances, "migrations": migrations, "capacities": capacities, "volumes": volumes,
		"epochs": c.Epochs(), "floor": c.Floor(), "guards": c.Guards(), "spaces": spaces,
	}
}

var (
	cacheHosts   = []string{"h1", "h2"}
	cacheVolumes = []string{"disk", "share"}
)

// follower feeds a cache with the events of a store.
type follower struct {
	t         *rapid.T
	s         *objectstest.Store
	c         *Cache
	watch     objects.Watcher
	serial    int
	listeners []*listener
}

// attempt commits what may be refused, and gives the cache its events.
func (f *follower) attempt(build func(tx *objects.Tx)) {
	before := held(f.c)
	_ = try(f.s, build) // what is refused changes nothing
	f.serial++
	mark := uniqueKey("mark", fmt.Sprint(f.serial))
	must(f.t, f.s, func(tx *objects.Tx) { tx.Put(mark, nil) })
	lost := rapid.IntRange(0, 9).Draw(f.t, "lost") == 0
	for ev := range f.watch.Events() {
		if !lost {
			f.c.Apply(ev)
		}
		if ev.Record.Key == mark {
			break
		}
	}
	if lost {
		refill(f.t, f.s, f.c)
		return
	}
	// Volumes and migrations are named only; whoever waits for one must hear of it.
	after := held(f.c)
	for i, l := range f.listeners {
		for _, claim := range cacheVolumes {
			if !reflect.DeepEqual(before["volumes"].(map[string]Volume)[claim], after["volumes"].(map[string]Volume)[claim]) && !l.volumes[claim] {
				f.t.Fatalf("handler %d did not hear of volume %s", i, claim)
			}
		}
		for _, host := range cacheHosts {
			if !reflect.DeepEqual(before["spaces"].(map[string]map[string]Space)[host], after["spaces"].(map[string]map[string]Space)[host]) && !l.spaces[host] {
				f.t.Fatalf("handler %d did not hear of the volumes on %s", i, host)
			}
		}
		migrations := maps.Clone(before["migrations"].(map[types.UID]Migration))
		maps.Copy(migrations, after["migrations"].(map[types.UID]Migration))
		for uid := range migrations {
			_, was := before["migrations"].(map[types.UID]Migration)[uid]
			_, is := after["migrations"].(map[types.UID]Migration)[uid]
			if was != is && !l.migrations[uid] {
				f.t.Fatalf("handler %d did not hear of migration %s", i, uid)
			}
		}
		clear(l.volumes)
		clear(l.spaces)
		clear(l.migrations)
	}
}

// step changes one claim.
func (f *follower) step() {
	name := rapid.SampledFrom(names).Draw(f.t, "name")
	uid := types.UID(name + "-uid")
	host := rapid.SampledFrom(cacheHosts).Draw(f.t, "host")
	in, last := read(f.t, f.s, uid), epoch(f.t, f.s, name)
	volume := f.c.Volume(objects.Key{Namespace: "ns", Name: rapid.SampledFrom(cacheVolumes).Draw(f.t, "volume")})
	volume.Shared = volume.Claim == "share"
	capacity, err := GetCapacity(context.Background(), f.s, host, raftstore.ReadOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	slot, running := f.c.Migration(uid)
	act := rapid.IntRange(0, 10).Draw(f.t, "act")
	f.attempt(func(tx *objects.Tx) {
		switch act {
		case 0, 1:
			sight := Sight{Revision: f.c.revision, Guards: f.c.Guards()}
			placed := Place(tx, inst(name, host, 1), last)
			Depend(tx, placed, Regard{KeptOut: []string{"ns"}}, sight)
		case 2:
			Reserve(tx, in, host, last)
		case 3:
			Switch(tx, in)
		case 4:
			CancelReservation(tx, in)
		case 5:
			for _, v := range f.c.VolumesOf(uid) {
				Detach(tx, v, uid)
			}
			Release(tx, in)
		case 6:
			Attach(tx, volume, uid)
		case 7:
			if running {
				FreeSlot(tx, slot)
			} else {
				TakeSlot(tx, Migration{UID: uid, VMI: uid, Source: host})
			}
		case 8:
			if capacity.Revision != 0 {
				Withdraw(tx, capacity)
			} else {
				capacity.Allocatable = machine.Resources{CPUMilli: 10000, MemoryBytes: 4 * gib}
				Publish(tx, capacity)
			}
		case 9:
			if last.Revision != 0 {
				ForgetEpochs(tx, f.c.Floor(), map[objects.Key]Epoch{{Namespace: "ns", Name: name}: last})
			}
			ForgetGuard(tx, "ns", f.c.Guards()["ns"])
		case 10:
			if taken, ok := f.c.Space(host, objects.Key{Namespace: "ns", Name: name}); ok {
				FreeSpace(tx, taken)
			} else {
				NoteSpace(tx, room(host, name, "local", 1))
			}
		}
	})
}

// check compares the cache with one that is filled afresh, with the store, and with
// what its handlers know.
func (f *follower) check() {
	fresh := newCache(f.t, f.s)
	refill(f.t, f.s, fresh)
	want := held(fresh)
	for what, got := range held(f.c) {
		if !reflect.DeepEqual(got, want[what]) {
			f.t.Fatalf("%s: %+v, stored is %+v", what, got, want[what])
		}
	}
	for i, l := range f.listeners {
		knows := map[string]any{"instances": l.instances, "capacities": l.capacities, "guards": l.guards}
		for what, got := range knows {
			if !reflect.DeepEqual(got, want[what]) {
				f.t.Fatalf("handler %d knows %s %+v, stored is %+v", i, what, got, want[what])
			}
		}
		if len(l.wrong) > 0 || l.revision != f.c.revision {
			f.t.Fatalf("handler %d is at revision %d of %d, was told wrong: %v", i, l.revision, f.c.revision, l.wrong)
		}
	}
	f.checkReads()
}

// checkReads compares the cache with single reads of the store.
func (f *follower) checkReads() {
	ctx, local := context.Background(), raftstore.ReadOptions{Consistency: raftstore.Local}
	byUID := func(a, b Instance) int { return strings.Compare(string(a.UID), string(b.UID)) }
	for _, host := range cacheHosts {
		stored, err := OnHost(ctx, f.s, host, local)
		if err != nil {
			f.t.Fatal(err)
		}
		have := f.c.OnHost(host)
		slices.SortFunc(have, byUID)
		slices.SortFunc(stored, byUID)
		if !reflect.DeepEqual(have, stored) {
			f.t.Fatalf("on %s: %+v, stored is %+v", host, have, stored)
		}
	}
	for _, name := range names {
		key, uid := objects.Key{Namespace: "ns", Name: name}, types.UID(name+"-uid")
		if have, stored := f.c.Epoch(key), epoch(f.t, f.s, name); have != stored {
			f.t.Fatalf("epoch of %s: %+v, stored is %+v", name, have, stored)
		}
		if have, ok := f.c.Instance(uid); ok != (have.Revision != 0) || !reflect.DeepEqual(have, read(f.t, f.s, uid)) {
			f.t.Fatalf("instance %s: %+v, stored is %+v", name, have, read(f.t, f.s, uid))
		}
		stored, err := VolumesOf(ctx, f.s, uid, local)
		if err != nil {
			f.t.Fatal(err)
		}
		have := f.c.VolumesOf(uid)
		slices.SortFunc(have, func(a, b Volume) int { return strings.Compare(a.Claim, b.Claim) })
		if !reflect.DeepEqual(have, stored) {
			f.t.Fatalf("volumes of %s: %+v, stored are %+v", name, have, stored)
		}
	}
	if floor, err := GetFloor(ctx, f.s, local); err != nil || f.c.Floor() != floor {
		f.t.Fatalf("floor %+v, stored is %+v, %v", f.c.Floor(), floor, err)
	}
}

// Whatever is claimed and released, and whether the watch breaks or not, the cache and
// whoever listens to it know what is stored.
func TestTheCacheKnowsWhatIsStored(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := mesh(t, cacheHosts...)
		setLimits(t, s, Limits{Total: 2, PerSource: 2, PerTarget: 2})
		watch, err := s.Watch(context.Background(), raftstore.WatchRequest{Prefix: Prefix})
		if err != nil {
			t.Fatal(err)
		}
		defer watch.Stop()
		f := &follower{t: t, s: s, c: newCache(t, s), watch: watch}
		f.listeners = append(f.listeners, listen(f.c)) // before the first fill
		refill(t, s, f.c)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			if len(f.listeners) < 3 && rapid.IntRange(0, 9).Draw(t, "listen") == 0 {
				f.listeners = append(f.listeners, listen(f.c))
			}
			f.step()
			f.check()
		}
	})
}

// A handler that has said that it wants no more hears no more.
func TestAHandlerEnds(t *testing.T) {
	s := mesh(t, "h1")
	c := newCache(t, s)
	refill(t, s, c)
	first, second := 0, 0
	end := c.AddHandler(func(Event) { first++ })
	c.AddHandler(func(Event) { second++ })
	end()
	before := second
	heardFirst := first
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	refill(t, s, c)
	if first != heardFirst || second == before {
		t.Errorf("the first heard %d more events, the second %d", first-heardFirst, second-before)
	}
}

// A record that cannot be read costs the cache that record only, and the log names it.
func TestARecordThatCannotBeReadIsSkipped(t *testing.T) {
	s := mesh(t, "h1")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	broken := []string{floorKey, instancePrefix + "x", epochPrefix + "ns/x", capacityPrefix + "x", volumePrefix + "ns/x", migrationPrefix + "x"}
	must(t, s, func(tx *objects.Tx) {
		for _, key := range broken {
			tx.Put(key, []byte("{"))
		}
	})
	var log strings.Builder
	c := newCacheThatLogs(t, s, slog.New(slog.NewTextHandler(&log, nil)))
	refill(t, s, c)
	for _, key := range broken {
		if !strings.Contains(log.String(), "key="+key+" ") {
			t.Errorf("the log does not name %s", key)
		}
	}
	if n := strings.Count(log.String(), "\n"); n != len(broken) {
		t.Errorf("%d lines are logged, want %d: %s", n, len(broken), log.String())
	}
	if in := c.Instances(); len(in) != 1 || in[0].Name != "a" {
		t.Errorf("instances %+v", in)
	}
	if _, ok := c.Capacity("h1"); !ok || len(c.Epochs()) != 1 || len(c.Migrations()) != 0 {
		t.Errorf("epochs %+v, migrations %+v", c.Epochs(), c.Migrations())
	}
}
