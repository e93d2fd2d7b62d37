package claims

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

const gib = 1 << 30

func size(g int64) machine.Resources {
	return machine.Resources{CPUMilli: 100, MemoryBytes: g * gib}
}

func inst(name, host string, g int64) Instance {
	return Instance{Namespace: "ns", Name: name, UID: types.UID(name + "-uid"), Host: host, Resources: size(g)}
}

func try(s objects.Store, build func(tx *objects.Tx)) error {
	var tx objects.Tx
	build(&tx)
	_, err := tx.Commit(context.Background(), s)
	return err
}

func must(t interface{ Fatal(...any) }, s objects.Store, build func(tx *objects.Tx)) {
	if err := try(s, build); err != nil {
		t.Fatal(err)
	}
}

// read returns what is stored for an instance; Revision is zero if nothing.
func read(t interface{ Fatal(...any) }, s objects.Store, uid types.UID) Instance {
	in, _, err := GetInstance(context.Background(), s, uid, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func epoch(t interface{ Fatal(...any) }, s objects.Store, name string) Epoch {
	e, err := GetEpoch(context.Background(), s, objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// mesh returns a store with hosts of 4 GiB.
func mesh(t interface{ Fatal(...any) }, hosts ...string) *objectstest.Store {
	s := objectstest.New(Rules()...)
	for _, h := range hosts {
		must(t, s, func(tx *objects.Tx) {
			Publish(tx, Capacity{Host: h, Allocatable: machine.Resources{CPUMilli: 10000, MemoryBytes: 4 * gib}})
		})
	}
	return s
}

func refusedBy(err error, rule, part string) bool {
	r, ok := objects.Refused(err)
	return ok && r.Name == rule && strings.Contains(r.Reason, part)
}

func TestLifeOfAnInstance(t *testing.T) {
	s := mesh(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 3), Epoch{}) })
	in := read(t, s, "a-uid")
	if in.Epoch != 1 || in.Host != "h1" || in.Since.IsZero() {
		t.Fatalf("placed as %+v", in)
	}
	must(t, s, func(tx *objects.Tx) { Reserve(tx, in, "h2", epoch(t, s, "a")) })
	if err := try(s, func(tx *objects.Tx) { Place(tx, inst("b", "h2", 2), Epoch{}) }); !refusedBy(err, RuleHostCapacity, "h2 has not enough memory") {
		t.Errorf("a reservation does not count: %v", err)
	}
	in = read(t, s, "a-uid")
	must(t, s, func(tx *objects.Tx) { Switch(tx, in) })
	in = read(t, s, "a-uid")
	if in.Host != "h2" || in.Target != "" || in.Epoch != 2 {
		t.Errorf("after the migration %+v", in)
	}
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("b", "h1", 4), Epoch{}) })
	must(t, s, func(tx *objects.Tx) { Release(tx, in) })
	if keys := s.Keys("/claims/host/h2/"); len(keys) != 0 {
		t.Errorf("left on h2: %v", keys)
	}
	// The next instance of the name gets a higher epoch.
	next := inst("a", "h2", 1)
	next.UID = "a-uid-2"
	must(t, s, func(tx *objects.Tx) { Place(tx, next, epoch(t, s, "a")) })
	if in := read(t, s, "a-uid-2"); in.Epoch != 3 {
		t.Errorf("epoch %d, want 3", in.Epoch)
	}
}

func TestRefusals(t *testing.T) {
	s := mesh(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 3), Epoch{}) })
	a, e := read(t, s, "a-uid"), epoch(t, s, "a")
	conflict := func(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }
	for name, tc := range map[string]struct {
		build func(tx *objects.Tx)
		ok    func(error) bool
	}{
		"more memory than is left": {
			func(tx *objects.Tx) { Place(tx, inst("b", "h1", 2), Epoch{}) },
			func(err error) bool { return refusedBy(err, RuleHostCapacity, "h1 has not enough memory") },
		},
		"a host that nobody knows": {
			func(tx *objects.Tx) { Place(tx, inst("b", "h9", 1), Epoch{}) },
			func(err error) bool { return refusedBy(err, RuleHostCapacity, "h9 has published no capacity") },
		},
		"placed already": {
			func(tx *objects.Tx) { Place(tx, inst("a", "h2", 1), e) }, conflict,
		},
		"another of the name runs": {
			func(tx *objects.Tx) { in := inst("a", "h2", 1); in.UID = "other"; Place(tx, in, e) }, conflict,
		},
		"an old view of the epoch": {
			func(tx *objects.Tx) { in := inst("a", "h2", 1); in.UID = "other"; Place(tx, in, Epoch{}) }, conflict,
		},
		"a switch without a target": {
			func(tx *objects.Tx) { Switch(tx, a) },
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "no migration target") },
		},
		"a stale claim": {
			func(tx *objects.Tx) { old := a; old.Revision--; Release(tx, old) }, conflict,
		},
		"a claim that was not read": {
			func(tx *objects.Tx) { Release(tx, inst("a", "h1", 1)) },
			func(err error) bool { return err != nil && strings.Contains(err.Error(), "was not read") },
		},
		"a record that leaves its entry behind": {
			func(tx *objects.Tx) {
				tx.Require(instanceKey(a.UID), a.Revision)
				moved := a
				moved.Host = "h2"
				putInstance(tx, moved)
				putEntry(tx, moved, "h2", moved.Epoch)
			},
			func(err error) bool {
				return refusedBy(err, RuleVMIOnce, "claim on host h1 that its record does not name")
			},
		},
		"a record that is dropped alone": {
			func(tx *objects.Tx) {
				tx.Require(instanceKey(a.UID), a.Revision)
				tx.Remove(instanceKey(a.UID))
				demand(tx, vmiOnce(), a.UID)
			},
			func(err error) bool { return refusedBy(err, RuleVMIOnce, "h1") },
		},
		"a volume for an instance that runs nowhere": {
			func(tx *objects.Tx) { Attach(tx, Volume{Namespace: "ns", Claim: "disk"}, "ghost") },
			func(err error) bool { return refusedBy(err, RuleVolumeOnce, "runs nowhere") },
		},
	} {
		err := try(s, tc.build)
		if err == nil || !tc.ok(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if now := read(t, s, "a-uid"); now.Revision != a.Revision {
		t.Errorf("a refused transaction changed the claim: %+v", now)
	}
}

// A host may offer less than is claimed of it: nothing is added then, and
// what ends is let go.
func TestAHostThatOffersLessTakesNoMore(t *testing.T) {
	s := mesh(t, "h1")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 3), Epoch{}) })
	c, err := GetCapacity(t.Context(), s, "h1", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Allocatable = size(1)
	must(t, s, func(tx *objects.Tx) { Publish(tx, c) })
	a := read(t, s, "a-uid")
	if err := try(s, func(tx *objects.Tx) { Place(tx, inst("b", "h1", 1), Epoch{}) }); !refusedBy(err, RuleHostCapacity, "h1") {
		t.Errorf("placed on a host that is too full: %v", err)
	}
	must(t, s, func(tx *objects.Tx) { Release(tx, a) })
}

func TestVolumes(t *testing.T) {
	s := mesh(t, "h1")
	for _, name := range []string{"a", "b"} {
		must(t, s, func(tx *objects.Tx) { Place(tx, inst(name, "h1", 1), Epoch{}) })
	}
	vol := func(claim string, shared bool) Volume {
		v, err := GetVolume(t.Context(), s, objects.Key{Namespace: "ns", Name: claim}, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		v.Shared = shared
		return v
	}
	must(t, s, func(tx *objects.Tx) { Attach(tx, vol("disk", false), "a-uid") })
	must(t, s, func(tx *objects.Tx) { Attach(tx, vol("disk", false), "a-uid") })
	if err := try(s, func(tx *objects.Tx) { Attach(tx, vol("disk", false), "b-uid") }); !refusedBy(err, RuleVolumeOnce, "in use by instance ns/a") {
		t.Errorf("attached twice: %v", err)
	}
	must(t, s, func(tx *objects.Tx) { Detach(tx, vol("disk", false), "a-uid") })
	must(t, s, func(tx *objects.Tx) { Attach(tx, vol("disk", false), "b-uid") })
	must(t, s, func(tx *objects.Tx) { Attach(tx, vol("share", true), "b-uid") })
	must(t, s, func(tx *objects.Tx) { Attach(tx, vol("share", true), "a-uid") })
	if v := vol("share", true); !slices.Equal(v.Holders, []types.UID{"a-uid", "b-uid"}) {
		t.Errorf("holders %v", v.Holders)
	}
}

func TestForgottenEpochsDoNotComeBack(t *testing.T) {
	s := mesh(t, "h1")
	key := objects.Key{Namespace: "ns", Name: "a"}
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	forget := func(tx *objects.Tx) {
		floor, err := GetFloor(t.Context(), s, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		ForgetEpochs(tx, floor, map[objects.Key]Epoch{key: epoch(t, s, "a")})
	}
	if try(s, forget) == nil {
		t.Error("forgotten while the instance runs")
	}
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "a-uid")) })
	// A steward that has seen no floor yet must not use an epoch again.
	old := epoch(t, s, "never-used")
	must(t, s, forget)
	if keys := s.Keys("/claims/epoch/"); len(keys) != 0 {
		t.Errorf("left: %v", keys)
	}
	again := inst("a", "h1", 1)
	again.UID = "again"
	if err := try(s, func(tx *objects.Tx) { Place(tx, again, old) }); !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		t.Errorf("placed under an old floor: %v", err)
	}
	// And if it lies about what it saw, the rule refuses it.
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("b", "h1", 1), epoch(t, s, "b")) })
	floor := epoch(t, s, "a").floor
	lie := Epoch{floor: Floor{Epoch: floor.Epoch - 1, Revision: floor.Revision}}
	if err := try(s, func(tx *objects.Tx) { Place(tx, again, lie) }); !refusedBy(err, RuleVMIOnce, "not above 1") {
		t.Errorf("an epoch that was used: %v", err)
	}
	must(t, s, func(tx *objects.Tx) { Place(tx, again, epoch(t, s, "a")) })
	if in := read(t, s, "again"); in.Epoch != 2 {
		t.Errorf("epoch %d, want 2", in.Epoch)
	}
	// The floor may rise above the epochs in use; those go on.
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "b-uid")) })
}

func TestCacheFollowsTheClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mesh(t, "h1", "h2")
		must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
		cfg := objects.DefaultCacheConfig()
		cfg.Store, cfg.Logger = s, slog.New(slog.DiscardHandler)
		oc, err := objects.NewCache(cfg)
		if err != nil {
			t.Fatal(err)
		}
		c := NewCache(oc, cfg.Logger)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); oc.Run(ctx) }()
		if err := c.WaitForSync(ctx); err != nil {
			t.Fatal(err)
		}
		var told []string
		c.AddHandler(func(ev Event) {
			switch {
			case ev.Instance != nil && ev.Instance.New == nil:
				told = append(told, "gone "+ev.Instance.Old.Name)
			case ev.Instance != nil:
				told = append(told, "instance "+ev.Instance.New.Name+" on "+strings.Join(ev.Instance.New.Hosts(), ","))
			case ev.Volume != nil:
				told = append(told, "volume "+ev.Volume.Name)
			}
		})
		in, _ := c.Instance("a-uid")
		must(t, s, func(tx *objects.Tx) { Attach(tx, c.Volume(objects.Key{Namespace: "ns", Name: "disk"}), in.UID) })
		must(t, s, func(tx *objects.Tx) { Reserve(tx, in, "h2", epoch(t, s, "a")) })
		synctest.Wait()
		if on := c.OnHost("h2"); len(on) != 1 || on[0].Target != "h2" {
			t.Errorf("on h2: %+v", on)
		}
		if e := c.Epoch(in.Key()); e.Epoch != 2 || e.Revision == 0 {
			t.Errorf("epoch %+v", e)
		}
		if v := c.VolumesOf("a-uid"); len(v) != 1 {
			t.Errorf("volumes %+v", v)
		}
		// While the watch is broken the instance goes; the cache finds out.
		s.BreakWatches(errors.New("cut"))
		in = read(t, s, "a-uid")
		must(t, s, func(tx *objects.Tx) { Detach(tx, c.VolumesOf("a-uid")[0], "a-uid"); Release(tx, in) })
		if err := synctestSettle(func() bool { return len(c.Instances()) == 0 }); err != nil {
			t.Error(err)
		}
		want := []string{"instance a on h1", "volume disk", "instance a on h1,h2", "gone a"}
		if !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
		if cap1, ok := c.Capacity("h1"); !ok || cap1.Allocatable.MemoryBytes != 4*gib {
			t.Errorf("capacity %+v", cap1)
		}
		cancel()
		<-done
	})
}

func BenchmarkPlaceOnAFullHost(b *testing.B) {
	s := mesh(b, "h1")
	c, _ := GetCapacity(context.Background(), s, "h1", raftstore.ReadOptions{})
	c.Allocatable.MemoryBytes = 1 << 40
	c.Allocatable.CPUMilli = 1 << 30
	must(b, s, func(tx *objects.Tx) { Publish(tx, c) })
	for i := range 100 {
		must(b, s, func(tx *objects.Tx) { Place(tx, inst(fmt.Sprint("vm", i), "h1", 1), Epoch{}) })
	}
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprint("new", i)
		must(b, s, func(tx *objects.Tx) { Place(tx, inst(name, "h1", 1), Epoch{}) })
		must(b, s, func(tx *objects.Tx) { Release(tx, read(b, s, types.UID(name+"-uid"))) })
	}
}
