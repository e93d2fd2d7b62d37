package claims

import (
	"context"
	"errors"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/claims/rulesv1"
	"virtmesh/agent/claims/rulesv2"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// What was read is acted upon only if it is still so: a second steward that read the
// same must not undo what the first has done since.
func TestWhatHasChangedSinceItWasReadIsNotWritten(t *testing.T) {
	slot := Migration{UID: "m", VMI: "a-uid", Source: "h1"}
	mac := Unique{Class: ClassMAC, Name: "02:00:00:00:00:01", Owner: "a", UID: "a-uid"}
	// Each makes a change that has read the present state, and then changes that state.
	for name, prepare := range map[string]func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx){
		"the room on a target": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			in := read(t, s, "a-uid")
			must(t, s, func(tx *objects.Tx) { Reserve(tx, in, "h2", epoch(t, s, "a")) })
			return func(tx *objects.Tx) { Reserve(tx, in, "h2", epoch(t, s, "a")) }
		},
		"a reservation to cancel": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h2", epoch(t, s, "a")) })
			in := read(t, s, "a-uid")
			must(t, s, func(tx *objects.Tx) { Switch(tx, in) })
			return func(tx *objects.Tx) { CancelReservation(tx, in) }
		},
		"a claim to hold on to": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			in := read(t, s, "a-uid")
			must(t, s, func(tx *objects.Tx) { Release(tx, in) })
			return func(tx *objects.Tx) { RequireHeld(tx, in); Hold(tx, mac) }
		},
		"the lack of a claim": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			return func(tx *objects.Tx) { RequireUnclaimed(tx, "a-uid"); Hold(tx, mac) }
		},
		"a capacity to publish": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			c := capacityOf(t, s, "h1")
			must(t, s, func(tx *objects.Tx) { Publish(tx, c) })
			return func(tx *objects.Tx) { Publish(tx, c) }
		},
		"a capacity to withdraw": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			c := capacityOf(t, s, "h1")
			must(t, s, func(tx *objects.Tx) { Publish(tx, c) })
			return func(tx *objects.Tx) { Withdraw(tx, c) }
		},
		"a volume to attach": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			must(t, s, func(tx *objects.Tx) { Attach(tx, Volume{Namespace: "ns", Claim: "disk"}, "a-uid") })
			return func(tx *objects.Tx) { Attach(tx, Volume{Namespace: "ns", Claim: "disk"}, "a-uid") }
		},
		"a volume to detach": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			must(t, s, func(tx *objects.Tx) { Attach(tx, Volume{Namespace: "ns", Claim: "disk"}, "a-uid") })
			vol, err := GetVolume(t.Context(), s, objects.Key{Namespace: "ns", Name: "disk"}, raftstore.ReadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			must(t, s, func(tx *objects.Tx) { Attach(tx, vol, "a-uid") })
			return func(tx *objects.Tx) { Detach(tx, vol, "a-uid") }
		},
		"a slot to take": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			must(t, s, func(tx *objects.Tx) { TakeSlot(tx, slot) })
			return func(tx *objects.Tx) { TakeSlot(tx, slot) }
		},
		"a slot to free": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			must(t, s, func(tx *objects.Tx) { TakeSlot(tx, slot) })
			return func(tx *objects.Tx) { FreeSlot(tx, slot) }
		},
		"a name to drop": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			must(t, s, func(tx *objects.Tx) { Hold(tx, mac) })
			return func(tx *objects.Tx) { Drop(tx, mac) }
		},
		"a guard to forget": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			guard := func(name string) {
				must(t, s, func(tx *objects.Tx) {
					Depend(tx, Place(tx, inst(name, "h2", 1), Epoch{}), Regard{KeptOut: []string{"ns"}}, sightNow(t, s))
				})
			}
			guard("b")
			seen := sightNow(t, s).Guards["ns"]
			guard("c")
			return func(tx *objects.Tx) { ForgetGuard(tx, "ns", seen) }
		},
		"an epoch to forget": func(t *testing.T, s *objectstest.Store) func(tx *objects.Tx) {
			seen := epoch(t, s, "a")
			must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "a-uid")) })
			next := inst("a", "h1", 1)
			next.UID = "a-2"
			must(t, s, func(tx *objects.Tx) { Place(tx, next, epoch(t, s, "a")) })
			return func(tx *objects.Tx) {
				ForgetEpochs(tx, Floor{}, map[objects.Key]Epoch{{Namespace: "ns", Name: "a"}: seen})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := mesh(t, "h1", "h2")
			setLimits(t, s, Limits{Total: 9, PerSource: 9, PerTarget: 9})
			must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
			late := prepare(t, s)
			before := s.Commits()
			if err := try(s, late); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
				t.Errorf("got %v, want a conflict", err)
			}
			if s.Commits() != before {
				t.Error("something was written")
			}
		})
	}
}

func capacityOf(t *testing.T, s objects.Store, host string) Capacity {
	t.Helper()
	c, err := GetCapacity(t.Context(), s, host, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What ends gives back what it took.
func TestWhatEndsGivesBackWhatItTook(t *testing.T) {
	s := mesh(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 3), Epoch{}) })
	placeB := func() error { return try(s, func(tx *objects.Tx) { Place(tx, inst("b", "h2", 2), Epoch{}) }) }
	must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h2", epoch(t, s, "a")) })
	if err := placeB(); !refusedBy(err, RuleHostCapacity, "h2") {
		t.Fatalf("with a reservation: %v", err)
	}
	must(t, s, func(tx *objects.Tx) { CancelReservation(tx, read(t, s, "a-uid")) })
	if err := placeB(); err != nil {
		t.Errorf("the reservation was cancelled: %v", err)
	}
	// One that is cancelled already stays so.
	must(t, s, func(tx *objects.Tx) { CancelReservation(tx, read(t, s, "a-uid")) })
	if in := read(t, s, "a-uid"); in.Host != "h1" || in.Target != "" {
		t.Errorf("claimed on %+v", in)
	}
	must(t, s, func(tx *objects.Tx) { Withdraw(tx, capacityOf(t, s, "h2")) })
	if c := capacityOf(t, s, "h2"); c.Revision != 0 || c.Host != "h2" {
		t.Errorf("capacity of a host that left: %+v", c)
	}
	setLimits(t, s, Limits{Total: 1, PerSource: 1, PerTarget: 1})
	take := func(uid string) error {
		return try(s, func(tx *objects.Tx) {
			TakeSlot(tx, Migration{UID: "m" + read(t, s, "a-uid").UID, VMI: "v", Source: uid})
		})
	}
	if err := take("h1"); err != nil {
		t.Fatal(err)
	}
	c := newCache(t, s)
	refill(t, s, c)
	must(t, s, func(tx *objects.Tx) { FreeSlot(tx, c.Migrations()[0]) })
	if err := take("h1"); err != nil {
		t.Errorf("the slot was freed: %v", err)
	}
}

// deaf is a store that cannot be read.
type deaf struct{ objects.Store }

var errDeaf = errors.New("no quorum")

func (deaf) Get(context.Context, string, raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	return raftstore.Record{}, 0, errDeaf
}

func (deaf) List(context.Context, raftstore.ListRequest) (raftstore.ListResult, error) {
	return raftstore.ListResult{}, errDeaf
}

// A store that cannot be read, or holds what cannot be understood, is not an empty one:
// whoever took it for one would start a guest a second time.
func TestWhatCannotBeReadIsNotTakenForNothing(t *testing.T) {
	broken := mesh(t)
	must(t, broken, func(tx *objects.Tx) {
		for _, key := range []string{
			instanceKey("a"), epochKey("ns", "a"), floorKey, capacityKey("h1"), volumeKey("ns", "disk"), uniqueKey(ClassMAC, "m"),
		} {
			tx.Put(key, []byte("{"))
		}
	})
	missing := mesh(t)
	must(t, missing, func(tx *objects.Tx) { tx.Put(floorKey, []byte("{")) })
	key := objects.Key{Namespace: "ns", Name: "a"}
	for what, get := range map[string]func(s objects.Store) (found any, err error){
		"an instance": func(s objects.Store) (any, error) {
			in, ok, err := GetInstance(t.Context(), s, "a", raftstore.ReadOptions{})
			return ok || in.Revision != 0 && err == nil, err
		},
		"an epoch": func(s objects.Store) (any, error) {
			e, err := GetEpoch(t.Context(), s, key, raftstore.ReadOptions{})
			return e, err
		},
		"the floor": func(s objects.Store) (any, error) {
			f, err := GetFloor(t.Context(), s, raftstore.ReadOptions{})
			return f, err
		},
		"a capacity": func(s objects.Store) (any, error) { return GetCapacity(t.Context(), s, "h1", raftstore.ReadOptions{}) },
		"a volume": func(s objects.Store) (any, error) {
			return GetVolume(t.Context(), s, objects.Key{Namespace: "ns", Name: "disk"}, raftstore.ReadOptions{})
		},
		"what a host has":      func(s objects.Store) (any, error) { return OnHost(t.Context(), s, "h1", raftstore.ReadOptions{}) },
		"what an instance has": func(s objects.Store) (any, error) { return VolumesOf(t.Context(), s, "a", raftstore.ReadOptions{}) },
		"a holder": func(s objects.Store) (any, error) {
			_, ok, err := Holder(t.Context(), s, ClassMAC, "m", raftstore.ReadOptions{})
			return ok, err
		},
		"all holders": func(s objects.Store) (any, error) { return Held(t.Context(), s, ClassMAC, raftstore.ReadOptions{}) },
	} {
		if found, err := get(deaf{mesh(t)}); !errors.Is(err, errDeaf) || found == true {
			t.Errorf("%s, without a quorum: %v, %v", what, found, err)
		}
		if found, err := get(broken); err == nil || errors.Is(err, errDeaf) || found == true {
			t.Errorf("%s, broken: %v, %v", what, found, err)
		}
	}
	if _, err := GetEpoch(t.Context(), missing, key, raftstore.ReadOptions{}); err == nil {
		t.Error("an epoch above a floor that is broken")
	}
}

// The rules refuse what they cannot judge, and records that contradict each other,
// whoever writes them.
func TestRulesRefuseWhatContradictsItself(t *testing.T) {
	call := func(rule string, version uint32, args string) func(tx *objects.Tx) {
		return func(tx *objects.Tx) {
			tx.Put(uniqueKey(ClassMAC, "m"), nil)
			tx.Demand(raftstore.ConstraintCall{Name: rule, Version: version, Args: []byte(args)})
		}
	}
	for _, rule := range Rules() {
		if err := try(mesh(t), call(rule.Name, rule.Version, "{")); !refusedBy(err, rule.Name, "arguments") {
			t.Errorf("%s, version %d, without arguments: %v", rule.Name, rule.Version, err)
		}
	}
	in := inst("a", "h1", 1)
	in.Epoch = 1
	write := func(key string, value any) func(tx *objects.Tx) {
		return func(tx *objects.Tx) { tx.Put(key, encodeValue(value)) }
	}
	text := func(key, value string) func(tx *objects.Tx) {
		return func(tx *objects.Tx) { tx.Put(key, []byte(value)) }
	}
	other := in
	other.UID = "b-uid"
	nowhere := in
	nowhere.Host = ""
	entry := string(Entry{Namespace: "ns", Name: "a", Epoch: 1, Resources: size(1)}.encodeText())
	once, capacity := rulesv2.CallVMIOnce(string(in.UID)), rulesv1.CallHostCapacity("h1")
	volume, slots := rulesv1.CallVolumeOnce(volumeKey("ns", "disk")), rulesv2.CallMigrationSlots()
	since := rulesv2.CallPlacedSince([]string{"ns"}, 0, nil)
	room := Limits{Total: 9, PerSource: 9, PerTarget: 9}
	for name, tc := range map[string]struct {
		call raftstore.ConstraintCall
		part string
		puts []func(tx *objects.Tx)
	}{
		"a record of another instance": {once, `names instance "b-uid"`, []func(*objects.Tx){write(instanceKey(in.UID), other)}},
		"a record without a host":      {once, `on host ""`, []func(*objects.Tx){write(instanceKey(in.UID), nowhere)}},
		"a record without an epoch":    {once, "has no epoch", []func(*objects.Tx){write(instanceKey(in.UID), in)}},
		"the epoch of another": {once, "has epoch 1 of b-uid", []func(*objects.Tx){
			write(instanceKey(in.UID), in), write(epochKey("ns", "a"), Epoch{Epoch: 1, UID: "b-uid"}), text(hostKey("h1", in.UID), entry)}},
		"another epoch": {once, "has epoch 2", []func(*objects.Tx){
			write(instanceKey(in.UID), in), write(epochKey("ns", "a"), Epoch{Epoch: 2, UID: in.UID}), text(hostKey("h1", in.UID), entry)}},
		"a record without an entry": {once, "no claim on host h1", []func(*objects.Tx){
			write(instanceKey(in.UID), in), write(epochKey("ns", "a"), Epoch{Epoch: 1, UID: in.UID})}},
		"an entry too many": {once, "claim on host h2 that its record does not name", []func(*objects.Tx){
			func(tx *objects.Tx) { tx.Require(instanceKey(in.UID), 0) },
			write(instanceKey(in.UID), in), write(epochKey("ns", "a"), Epoch{Epoch: 1, UID: in.UID}),
			text(hostKey("h1", in.UID), entry), text(hostKey("h2", in.UID), entry)}},
		"a record that is broken":    {once, "decode", []func(*objects.Tx){text(instanceKey(in.UID), "{")}},
		"an epoch that is broken":    {once, "decode", []func(*objects.Tx){write(instanceKey(in.UID), in), text(epochKey("ns", "a"), "{")}},
		"a floor that is broken":     {once, "decode", []func(*objects.Tx){text(floorKey, "{")}},
		"a capacity that is broken":  {capacity, "decode", []func(*objects.Tx){text(capacityKey("h1"), "{")}},
		"an entry that is broken":    {capacity, "unknown word", []func(*objects.Tx){text(hostKey("h1", in.UID), entry+" gold=1")}},
		"a volume that is broken":    {volume, "decode", []func(*objects.Tx){text(volumeKey("ns", "disk"), "{")}},
		"a migration that is broken": {slots, "decode", []func(*objects.Tx){write(limitsKey, room), text(migrationKey("m"), "{")}},
		"limits that are broken":     {slots, "decode", []func(*objects.Tx){text(limitsKey, "{")}},
		"a new epoch that is broken": {since, "decode", []func(*objects.Tx){text(epochKey("ns", "a"), "{")}},
		"a new claim that is broken": {since, "decode", []func(*objects.Tx){write(epochKey("ns", "a"), Epoch{Epoch: 1, UID: in.UID}), text(instanceKey(in.UID), "{")}},
	} {
		s := mesh(t, "h1", "h2")
		err := try(s, func(tx *objects.Tx) {
			for _, put := range tc.puts {
				put(tx)
			}
			tx.Demand(tc.call)
		})
		if !refusedBy(err, tc.call.Name, tc.part) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Who is told that a volume is in use is told by whom: by the one that had it first,
// not by the first in the alphabet.
func TestAVolumeIsInUseByWhoHadItFirst(t *testing.T) {
	s := mesh(t, "h1")
	for _, name := range []string{"b", "c", "a"} {
		must(t, s, func(tx *objects.Tx) { Place(tx, inst(name, "h1", 1), Epoch{}) })
	}
	must(t, s, func(tx *objects.Tx) { Attach(tx, Volume{Namespace: "ns", Claim: "disk"}, "b-uid") })
	for _, name := range []string{"a", "c"} {
		vol, err := GetVolume(t.Context(), s, objects.Key{Namespace: "ns", Name: "disk"}, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		err = try(s, func(tx *objects.Tx) { Attach(tx, vol, inst(name, "h1", 1).UID) })
		if !refusedBy(err, RuleVolumeOnce, "volume ns/disk is in use by instance ns/b") {
			t.Errorf("for %s: %v", name, err)
		}
	}
}

// A host is full to the last byte, and not beyond.
func TestAHostIsFilledToItsCapacity(t *testing.T) {
	all := machine.Resources{CPUMilli: 100, MemoryBytes: 4 * gib, EphemeralBytes: 1, Hugepages: map[string]int64{"2Mi": 2 << 20}, Devices: map[string]int64{"gpu": 1}}
	for what, more := range map[string]func(*machine.Resources){
		"":           func(*machine.Resources) {},
		"cpu":        func(r *machine.Resources) { r.CPUMilli++ },
		"memory":     func(r *machine.Resources) { r.MemoryBytes++ },
		"ephemeral":  func(r *machine.Resources) { r.EphemeralBytes++ },
		"hugepages":  func(r *machine.Resources) { r.Hugepages = map[string]int64{"2Mi": 4 << 20} },
		"gpu":        func(r *machine.Resources) { r.Devices = map[string]int64{"gpu": 2} },
		"a resource": func(r *machine.Resources) { r.Devices = map[string]int64{"gpu": 1, "fpga": 1} },
	} {
		s := mesh(t)
		must(t, s, func(tx *objects.Tx) { Publish(tx, Capacity{Host: "h1", Allocatable: all}) })
		in := inst("a", "h1", 0)
		in.Resources = all
		more(&in.Resources)
		err := try(s, func(tx *objects.Tx) { Place(tx, in, Epoch{}) })
		if what == "" && err != nil || what != "" && !refusedBy(err, RuleHostCapacity, "not enough") {
			t.Errorf("one more %s: %v", what, err)
		}
		if what != "" {
			continue
		}
		// An instance that takes nothing fits a host that is full, and is read back.
		for _, name := range []string{"b", "c"} {
			must(t, s, func(tx *objects.Tx) {
				Place(tx, Instance{Namespace: "ns", Name: name, UID: inst(name, "", 0).UID, Host: "h1"}, Epoch{})
			})
		}
		err = try(s, func(tx *objects.Tx) { Place(tx, inst("d", "h1", 1), Epoch{}) })
		if !refusedBy(err, RuleHostCapacity, "memory") || !strings.Contains(err.Error(), "cpu") {
			t.Errorf("on a full host: %v", err)
		}
	}
}
