package claims

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// disksOf are the file systems of a host in tests, in GiB: that of its state, on which the pool
// local is, and one with two pools.
func disksOf(state, fast int64) []Disk {
	return []Disk{{State: true, Pools: []string{"local"}, Bytes: state * gib}, {Pools: []string{"fast", "faster"}, Bytes: fast * gib}}
}

// roomy returns a mesh that counts pools. Its hosts have 10 GiB beside their state and 5 GiB in
// faster pools.
func roomy(t interface{ Fatal(...any) }, hosts ...string) *objectstest.Store {
	s := objectstest.New(Rules()...)
	s.SetFeatureLevel(level.Apart)
	for _, host := range hosts {
		must(t, s, func(tx *objects.Tx) {
			Publish(tx, Capacity{Host: host, Allocatable: machine.Resources{CPUMilli: 1 << 20, MemoryBytes: 1 << 50, EphemeralBytes: 9 * gib}, Disks: disksOf(10, 5)})
		})
	}
	return s
}

func room(host, claim, pool string, g int64) Space {
	return Space{Host: host, Namespace: "ns", Claim: claim, Pool: pool, Bytes: g * gib}
}

func spaceOf(t interface{ Fatal(...any) }, s objects.Store, host, claim string) Space {
	v, err := GetSpace(context.Background(), s, host, objects.Key{Namespace: "ns", Name: claim}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// withDisk is an instance with an empty disk.
func withDisk(name, host string, g int64) Instance {
	in := inst(name, host, 1)
	in.Resources.EphemeralBytes = g * gib
	return in
}

// Of two stewards who each saw room for their volume, the second is refused.
func TestOfTwoVolumesThatDoNotFitTheSecondIsRefused(t *testing.T) {
	s := roomy(t, "h1", "h2")
	take := func(v Space) error { return try(s, func(tx *objects.Tx) { TakeSpace(tx, v) }) }
	if err := take(room("h1", "a", "fast", 3)); err != nil {
		t.Fatal(err)
	}
	for _, pool := range []string{"fast", "faster"} { // they are on one file system
		if err := take(room("h1", "b", pool, 3)); !refusedBy(err, RulePoolCapacity, "host h1 may promise 5120 MiB on the disk of pool fast and faster, and 6144 MiB would be") {
			t.Errorf("the second, in pool %s: %v", pool, err)
		}
	}
	for _, fits := range []Space{room("h1", "c", "fast", 2), room("h2", "b", "fast", 5), room("h1", "d", "local", 10), room("h1", "e", "nfs", 1000)} {
		if err := take(fits); err != nil {
			t.Errorf("%+v: %v", fits, err)
		}
	}
	must(t, s, func(tx *objects.Tx) { FreeSpace(tx, spaceOf(t, s, "h1", "a")) })
	if err := take(room("h1", "b", "faster", 3)); err != nil {
		t.Errorf("the room was given back: %v", err)
	}
}

// What ends with instances and volumes share a file system, whoever comes first.
func TestVolumesAndEmptyDisksShareTheDisk(t *testing.T) {
	for name, first := range map[string]bool{"the volume is first": true, "the instance is first": false} {
		t.Run(name, func(t *testing.T) {
			s := roomy(t, "h1")
			volume := func(tx *objects.Tx) { TakeSpace(tx, room("h1", "a", "local", 6)) }
			instance := func(tx *objects.Tx) { Place(tx, withDisk("vm", "h1", 5), Epoch{}) }
			if !first {
				volume, instance = instance, volume
			}
			must(t, s, volume)
			if err := try(s, instance); !refusedBy(err, RulePoolCapacity, "may promise 10240 MiB on the disk of pool local, and 11264 MiB would be") {
				t.Errorf("the second: %v", err)
			}
		})
	}
	// So does the room that a migration reserves, and what is placed with its volumes.
	s := roomy(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) {
		Place(tx, withDisk("vm", "h1", 5), Epoch{})
		TakeSpace(tx, room("h1", "a", "local", 5))
	})
	must(t, s, func(tx *objects.Tx) { TakeSpace(tx, room("h2", "b", "local", 6)) })
	if err := try(s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "vm-uid"), "h2", epoch(t, s, "vm")) }); !refusedBy(err, RulePoolCapacity, "host h2") {
		t.Errorf("the reservation: %v", err)
	}
	// An instance without such disks is placed, however much is promised.
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("plain", "h2", 1), Epoch{}) })
}

// What a raise finds beyond the capacity stays, its host takes no more, and everything ends as
// it would elsewhere.
func TestARaiseWedgesNothing(t *testing.T) {
	s := roomy(t, "h1")
	s.SetFeatureLevel(level.Apart - 1)
	must(t, s, func(tx *objects.Tx) { Place(tx, withDisk("old", "h1", 9), Epoch{}) })
	s.SetFeatureLevel(level.Apart)
	for _, claim := range []string{"a", "b", "c"} {
		must(t, s, func(tx *objects.Tx) { NoteSpace(tx, room("h1", claim, "local", 20)) })
	}
	if err := try(s, func(tx *objects.Tx) { TakeSpace(tx, room("h1", "d", "local", 1)) }); !refusedBy(err, RulePoolCapacity, "") {
		t.Errorf("one more volume: %v", err)
	}
	must(t, s, func(tx *objects.Tx) { TakeSpace(tx, room("h1", "d", "fast", 1)) })
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("plain", "h1", 1), Epoch{}) })
	for _, claim := range []string{"a", "b", "c"} {
		must(t, s, func(tx *objects.Tx) { FreeSpace(tx, spaceOf(t, s, "h1", claim)) })
	}
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "old-uid")) })
	must(t, s, func(tx *objects.Tx) { TakeSpace(tx, room("h1", "a", "local", 10)) })
	// A host that has not published since the raise limits nothing, one that left everything.
	capacity := capacityOf(t, s, "h1")
	capacity.Disks = nil
	must(t, s, func(tx *objects.Tx) { Publish(tx, capacity) })
	must(t, s, func(tx *objects.Tx) { TakeSpace(tx, room("h1", "e", "local", 10)) })
	must(t, s, func(tx *objects.Tx) { Withdraw(tx, capacityOf(t, s, "h1")) })
	if err := try(s, func(tx *objects.Tx) { TakeSpace(tx, room("h1", "f", "local", 1)) }); !refusedBy(err, RulePoolCapacity, "has published no capacity") {
		t.Errorf("on a host that left: %v", err)
	}
}

// Below the level of the rule, a replica would stop at it.
func TestPoolsAreNotCountedBelowTheirLevel(t *testing.T) {
	s := roomy(t, "h1")
	s.SetFeatureLevel(level.Apart - 1)
	must(t, s, func(tx *objects.Tx) { NoteSpace(tx, room("h1", "a", "local", 10)) })
	must(t, s, func(tx *objects.Tx) { Place(tx, withDisk("vm", "h1", 5), Epoch{}) })
	if CountsPools(level.Apart-1) || !CountsPools(level.Apart) {
		t.Error("pools count from another level on")
	}
}

// Whatever stewards and hosts with old views do, and in whatever order: nobody adds to a file
// system more than it may be promised, and what frees room is never refused.
func TestNoInterleavingOverfillsADisk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		hosts := []string{"h1", "h2"}
		w := &filling{t: t, s: roomy(t, hosts...), hosts: hosts}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step()
		}
	})
}

// bounded refuses what a real store would: a transaction of too many ops.
type bounded struct{ *objectstest.Store }

func (s bounded) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if len(t.Ops) > raftstore.MaxTxnOps {
		return raftstore.TxnResult{}, raftstore.ErrTooLarge
	}
	return s.Store.Commit(ctx, t)
}

// A host that is removed has more volumes than one transaction can name. Those of others stay.
func TestARemovedHostGivesBackAllItsRoom(t *testing.T) {
	s := bounded{roomy(t, "h1", "h10")}
	must(t, s.Store, func(tx *objects.Tx) {
		for i := range raftstore.MaxTxnOps + 1 {
			NoteSpace(tx, room("h1", strconv.Itoa(i), "local", 1))
		}
		NoteSpace(tx, room("h10", "a", "local", 1))
	})
	if err := FreeSpacesOn(context.Background(), s, "h1"); err != nil {
		t.Fatal(err)
	}
	if left := s.Keys(spacePrefix); len(left) != 1 || left[0] != spaceKey("h10", objects.Key{Namespace: "ns", Name: "a"}) {
		t.Errorf("%d are left: %.3q", len(left), left)
	}
}

type filling struct {
	t      *rapid.T
	s      *objectstest.Store
	hosts  []string
	seen   []Space
	serial int
}

// promised is what is promised on each file system of a host, added up apart from the rule.
func (w *filling) promised(host string) map[string]int64 {
	sums := map[string]int64{}
	for _, key := range w.s.Keys(spacePrefix + host + "/") {
		_, claim := splitSpace(key)
		v := spaceOf(w.t, w.s, host, claim.Name)
		if v.Pool == "faster" {
			v.Pool = "fast"
		}
		sums[v.Pool] += v.Bytes
	}
	for _, key := range w.s.Keys(instancePrefix) {
		in := read(w.t, w.s, types.UID(strings.TrimPrefix(key, instancePrefix)))
		if slices.Contains(in.Hosts(), host) {
			sums["local"] += in.Resources.EphemeralBytes
		}
	}
	return sums
}

func (w *filling) step() {
	host := rapid.SampledFrom(w.hosts).Draw(w.t, "host")
	pool := rapid.SampledFrom([]string{"local", "fast", "faster"}).Draw(w.t, "pool")
	g := rapid.Int64Range(1, 4).Draw(w.t, "GiB")
	claim := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(w.t, "claim")
	act := rapid.IntRange(0, 5).Draw(w.t, "act")
	w.serial++
	err := try(w.s, func(tx *objects.Tx) {
		switch act {
		case 0: // the view may be old: somebody else may have made or deleted it since
			w.seen = append(w.seen, spaceOf(w.t, w.s, host, claim))
			tx.Put(uniqueKey("mark", strconv.Itoa(w.serial)), nil)
		case 1:
			v := room(host, claim, pool, g)
			for _, seen := range w.seen {
				if seen.Host == host && seen.Claim == claim {
					v.Revision = seen.Revision
				}
			}
			TakeSpace(tx, v)
		case 2, 3:
			name := strconv.Itoa(w.serial)
			Place(tx, withDisk(name, host, g), Epoch{})
			if act == 3 {
				TakeSpace(tx, room(host, name, pool, g))
			}
		case 4:
			keys := w.s.Keys(instancePrefix)
			if len(keys) > 0 {
				Release(tx, read(w.t, w.s, types.UID(strings.TrimPrefix(rapid.SampledFrom(keys).Draw(w.t, "instance"), instancePrefix))))
			}
		case 5:
			FreeSpace(tx, spaceOf(w.t, w.s, host, claim))
		}
	})
	limits := map[string]int64{"local": 10 * gib, "fast": 5 * gib}
	for disk, bytes := range w.promised(host) {
		if bytes > limits[disk] {
			w.t.Fatalf("act %d promised %d on disk %s of %s, which has %d", act, bytes, disk, host, limits[disk])
		}
	}
	_, refused := objects.Refused(err)
	switch {
	case err == nil, apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err):
	case refused && act >= 1 && act <= 3:
	default:
		w.t.Fatalf("act %d: %v", act, err)
	}
}
