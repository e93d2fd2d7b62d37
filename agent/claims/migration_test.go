package claims

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

func setLimits(t interface{ Fatal(...any) }, s objects.Store, limits Limits) {
	must(t, s, func(tx *objects.Tx) { SetLimits(tx, limits) })
}

// The room is claimed when it is reserved. A target that has less to offer by the time
// the guest has arrived must not refuse it then.
func TestAGuestThatHasArrivedIsNotRefused(t *testing.T) {
	s := mesh(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 3), Epoch{}) })
	must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h2", epoch(t, s, "a")) })
	shrunk := capacityOf(t, s, "h2")
	shrunk.Allocatable = size(1)
	must(t, s, func(tx *objects.Tx) { Publish(tx, shrunk) })
	must(t, s, func(tx *objects.Tx) { Switch(tx, read(t, s, "a-uid")) })
	if in := read(t, s, "a-uid"); in.Host != "h2" || in.Target != "" {
		t.Errorf("after the switch %+v", in)
	}
	must(t, s, func(tx *objects.Tx) { Withdraw(tx, capacityOf(t, s, "h1")) })
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "a-uid")) })
}

// Source and target are told apart by their epochs from the reservation on, and an epoch
// that a target has had is never given out again.
func TestATargetHasAnEpochOfItsOwn(t *testing.T) {
	s := mesh(t, "h1", "h2", "h3")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	reserve := func(target string) Instance {
		t.Helper()
		must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), target, epoch(t, s, "a")) })
		return read(t, s, "a-uid")
	}
	first := reserve("h2")
	if first.Epoch != 1 || first.TargetEpoch != 2 {
		t.Fatalf("reserved as %+v", first)
	}
	must(t, s, func(tx *objects.Tx) { CancelReservation(tx, first) })
	if in := read(t, s, "a-uid"); in.Epoch != 1 || in.TargetEpoch != 0 || in.Target != "" {
		t.Errorf("cancelled, and %+v", in)
	}
	if again := reserve("h3"); again.Epoch != 1 || again.TargetEpoch != 3 {
		t.Errorf("reserved again as %+v", again)
	}
	must(t, s, func(tx *objects.Tx) { Switch(tx, read(t, s, "a-uid")) })
	if in := read(t, s, "a-uid"); in.Epoch != 3 || in.TargetEpoch != 0 || in.Host != "h3" {
		t.Errorf("after the switch %+v", in)
	}
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "a-uid")) })
	next := inst("a", "h1", 1)
	next.UID = "next"
	must(t, s, func(tx *objects.Tx) { Place(tx, next, epoch(t, s, "a")) })
	if in := read(t, s, "next"); in.Epoch != 4 {
		t.Errorf("the next instance of the name has epoch %d", in.Epoch)
	}
}

// Whoever writes a claim with epochs that do not fit is refused.
func TestEpochsOfAMigrationFitTogether(t *testing.T) {
	s := mesh(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h2", epoch(t, s, "a")) })
	for want, change := range map[string]func(in *Instance){
		"for a target and no target": func(in *Instance) { in.Target = "" },
		"to the same host":           func(in *Instance) { in.Target = in.Host },
		"has epoch 1 for its target": func(in *Instance) { in.TargetEpoch = 1 },
		"has epoch 3 for its target": func(in *Instance) { in.TargetEpoch = 3 },
		"its claim says 3":           func(in *Instance) { in.Epoch = 3 },
		"above 2":                    func(in *Instance) { in.Epoch = 2 },
	} {
		in := read(t, s, "a-uid")
		change(&in)
		if err := try(s, func(tx *objects.Tx) { putInstance(tx, in) }); !refusedBy(err, RuleVMIOnce, want) {
			t.Errorf("%+v: %v, want %q", in, err, want)
		}
	}
	must(t, s, func(tx *objects.Tx) { CancelReservation(tx, read(t, s, "a-uid")) })
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "a-uid")) })
	old := inst("a", "h1", 1)
	old.UID, old.Epoch = "old", 1
	err := try(s, func(tx *objects.Tx) {
		putInstance(tx, old)
		putEntry(tx, old, "h1", 1)
		tx.Put(epochKey("ns", "a"), encodeValue(Epoch{Epoch: 2, UID: "old"}))
	})
	if !refusedBy(err, RuleVMIOnce, "has epoch 2") {
		t.Errorf("placed under an epoch that a target had: %v", err)
	}
	if err := try(s, func(tx *objects.Tx) { Reserve(tx, Instance{UID: "x", Host: "h1", Revision: 1}, "h1", Epoch{}) }); err == nil || !strings.Contains(err.Error(), "cannot be its migration target") {
		t.Errorf("a migration to the same host: %v", err)
	}
}

// A decision that counted instances has seen the targets of migrations, too, and a
// reservation is such a decision itself.
func TestAReservationIsAPlacementToOthers(t *testing.T) {
	counts := Regard{Counted: []string{"ns"}}
	s := mesh(t, "h1", "h2", "h3")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("a", "h1", 1), Epoch{}) })
	sight := sightNow(t, s)
	must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "a-uid"), "h2", epoch(t, s, "a")) })
	place := func(known ...Known) error {
		seen := sight
		seen.Known = known
		return try(s, func(tx *objects.Tx) { Depend(tx, Place(tx, inst("b", "h2", 1), Epoch{}), counts, seen) })
	}
	for _, known := range [][]Known{nil, {{"a-uid", "h1"}}, {{"a-uid", "h2"}}} {
		if err := place(known...); !Outdated(err) {
			t.Errorf("counted as on %v: %v", known, err)
		}
	}
	if err := place(Known{"a-uid", "h1"}, Known{"a-uid", "h2"}); err != nil {
		t.Errorf("counted on both hosts: %v", err)
	}
	// The reservation of b counts a, which has moved since, and then does not.
	old := sight
	old.Known = []Known{{"b-uid", "h2"}}
	move := func(seen Sight) error {
		return try(s, func(tx *objects.Tx) {
			Depend(tx, Reserve(tx, read(t, s, "b-uid"), "h3", epoch(t, s, "b")), counts, seen)
		})
	}
	if err := move(old); !Outdated(err) {
		t.Errorf("reserved on an old view: %v", err)
	}
	if err := move(sightNow(t, s)); err != nil {
		t.Errorf("reserved on a new view: %v", err)
	}
}

func TestMigrationSlots(t *testing.T) {
	s := mesh(t)
	take := func(uid, vmi, source, target string) error {
		return try(s, func(tx *objects.Tx) {
			TakeSlot(tx, Migration{UID: types.UID(uid), VMI: types.UID(vmi), Source: source, Target: target})
		})
	}
	if err := take("m0", "v0", "h1", "t1"); !refusedBy(err, RuleMigrationSlots, "no limits") {
		t.Errorf("without limits: %v", err)
	}
	setLimits(t, s, Limits{Total: 4, PerSource: 2, PerTarget: 2})
	for _, tc := range []struct{ uid, vmi, source, target, want string }{
		{"m1", "v1", "h1", "t1", ""},
		{"m2", "v2", "h1", "t2", ""},
		{"m3", "v3", "h1", "t3", "h1 has the most outgoing"},
		{"m4", "v1", "h2", "t3", "migrating already"},
		{"m5", "v5", "h2", "t2", ""},
		{"m6", "v6", "h3", "t2", "t2 has the most incoming"},
		{"m7", "v7", "h3", "t3", ""},
		{"m8", "v8", "h4", "t4", "limit"},
	} {
		err := take(tc.uid, tc.vmi, tc.source, tc.target)
		if tc.want == "" && err != nil || tc.want != "" && !refusedBy(err, RuleMigrationSlots, tc.want) {
			t.Errorf("%+v: got %v", tc, err)
		}
	}
	stored, err := GetLimits(t.Context(), s, raftstore.ReadOptions{})
	if err != nil || stored.Total != 4 {
		t.Fatalf("stored limits %+v, %v", stored, err)
	}
	stored.Total = 5
	setLimits(t, s, stored)
	if err := take("m8", "v8", "h4", "t4"); err != nil {
		t.Errorf("with a higher limit: %v", err)
	}
	if err := try(s, func(tx *objects.Tx) { SetLimits(tx, stored) }); !apierrors.IsConflict(err) {
		t.Errorf("limits that have changed since are overwritten: %v", err)
	}
}
