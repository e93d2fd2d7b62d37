package membership

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// rotationOperation creates an operation of a type, and returns its UID and its key.
func rotationOperation(t *testing.T, store objects.Store, kind meshv1alpha1.OperationType, target string) (types.UID, objects.Key) {
	t.Helper()
	key, err := requestOperation(t.Context(), store, "rotate", meshv1alpha1.OperationSpec{Type: kind, Target: target, RequestedBy: "someone through host1"})
	if err != nil {
		t.Fatal(err)
	}
	op, err := objects.Get[*meshv1alpha1.Operation](t.Context(), store, key, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return op.UID, key
}

// A replacement ends, and says what helps, if the one that has begun after it was cancelled or has
// failed: nobody goes on with that one.
func TestAReplacementEndsWithALaterOneThatStopped(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	store := objects.FromRaft(m.store, nil)
	check := func(err, other error, command string) {
		t.Helper()
		if f := fault.Of(err); !errors.Is(err, other) || f.Code != fault.Conflict || !strings.Contains(f.Remedy, command) {
			t.Errorf("%v (%s)", err, f.Remedy)
		}
	}
	late, key := rotationOperation(t, store, meshv1alpha1.RotateGossipKey, meshv1alpha1.GossipKey)
	early := rotationBy(m, "early")
	carryOut(t, early[:2])
	carryOut(t, rotationBy(m, late)[:2])
	setPhase(t, store, key, meshv1alpha1.OperationCancelled, "")
	check(early[2].Do(t.Context(), func(int64, int64) {}), identity.ErrOtherRotation, "virtmesh gossip rotate-key")

	late, key = rotationOperation(t, store, meshv1alpha1.RotateCA, meshv1alpha1.CA)
	for _, uid := range []types.UID{"early", late} {
		if err := identity.WantCA(t.Context(), m.store, string(uid)); err != nil {
			t.Fatal(err)
		}
	}
	if found := warned(t, m, "replacement of the mesh's CA"); len(found) > 0 {
		t.Errorf("while it goes on: %v", found)
	}
	setPhase(t, store, key, meshv1alpha1.OperationFailed, "x")
	steps := caRotationBy(m, "early", 0)
	check(steps[2].Do(t.Context(), func(int64, int64) {}), identity.ErrOtherCARotation, "virtmesh ca rotate")
	if found := warned(t, m, "the CA that was to be replaced is still the mesh's"); len(found) != 1 || !strings.Contains(found[0], "virtmesh ca rotate") {
		t.Errorf("status warns: %v", found)
	}
}

// Status warns as long as hosts trust the CA of before and nothing is on its way to end that.
func TestStatusTellsOfAReplacementThatStopped(t *testing.T) {
	t.Parallel()
	first, _ := replaceable(t)
	steps := caRotationBy(first, "gone", 0)
	carryOut(t, steps[:4])
	if found := warned(t, first, "hosts still trust the one of before"); len(found) != 1 {
		t.Errorf("status warns: %v", found)
	}
	carryOut(t, steps[4:])
	if found := warned(t, first, "replacement of the mesh's CA"); len(found) > 0 {
		t.Errorf("after its end: %v", found)
	}
}
