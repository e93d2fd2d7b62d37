package membership

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// setPhase ends or begins an operation as its owner would.
func setPhase(t *testing.T, store objects.Store, key objects.Key, phase meshv1alpha1.OperationPhase, message string) {
	t.Helper()
	op, err := objects.Get[*meshv1alpha1.Operation](t.Context(), store, key, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	next := op.DeepCopy()
	next.Status.Phase, next.Status.Message = phase, message
	var tx objects.Tx
	tx.UpdateStatus(op, next)
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
}

// A second command joins the removal that is under way; after its end, there is
// a new one.
func TestOneRemovalAtATime(t *testing.T) {
	store := objectstest.New()
	request := func(host string) objects.Key {
		t.Helper()
		key, err := requestRemoval(t.Context(), store, host, "host1")
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := request("host9")
	if again := request("host9"); again != first {
		t.Errorf("a second operation %s beside %s", again, first)
	}
	if other := request("host8"); other == first {
		t.Errorf("the removal of host8 is that of host9")
	}
	setPhase(t, store, first, meshv1alpha1.OperationFailed, "x")
	if again := request("host9"); again == first {
		t.Error("an operation that has ended is taken for one under way")
	}
}

func TestTheCommandHearsHowItEnds(t *testing.T) {
	for phase, want := range map[meshv1alpha1.OperationPhase]string{
		meshv1alpha1.OperationSucceeded: "",
		meshv1alpha1.OperationFailed:    "host9 is alive",
		meshv1alpha1.OperationCancelled: "Cancelled",
		meshv1alpha1.OperationRunning:   "continues (host9 is alive)",
	} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := objectstest.New()
				key, err := requestRemoval(t.Context(), store, "host9", "host1")
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				done := make(chan error, 1)
				go func() { done <- awaitOperation(ctx, store, key) }()
				time.Sleep(10 * time.Second)
				setPhase(t, store, key, phase, "host9 is alive")
				err = <-done
				if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q", err, want)
				}
				if phase == meshv1alpha1.OperationRunning && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v, want why it was given up", err)
				}
			})
		})
	}
}
