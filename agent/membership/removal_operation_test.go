package membership

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
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

// removalOf asks for the removal of a host.
func removalOf(host string) meshv1alpha1.OperationSpec {
	return meshv1alpha1.OperationSpec{Type: meshv1alpha1.RemoveHost, Target: host, RequestedBy: "someone through host1"}
}

// A second command joins the removal that is under way; after its end, there is
// a new one.
func TestOneRemovalAtATime(t *testing.T) {
	t.Parallel()
	store := objectstest.New()
	request := func(host string) objects.Key {
		t.Helper()
		key, err := requestOperation(t.Context(), store, "remove", removalOf(host))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	first := request("host9")
	if again := request("host9"); again != first {
		t.Errorf("a second operation %s beside %s", again, first)
	}
	forced := removalOf("host9")
	forced.Force = true
	if key, err := requestOperation(t.Context(), store, "remove", forced); err != nil || key == first {
		t.Errorf("a removal by force waits for one that checks: %v, %v", key, err)
	}
	successor := removalOf("host9")
	successor.Machine = "the-next-machine"
	if key, err := requestOperation(t.Context(), store, "remove", successor); err != nil || key == first {
		t.Errorf("the removal of the next machine is that of the one before: %v, %v", key, err)
	}
	if other := request("host8"); other == first {
		t.Errorf("the removal of host8 is that of host9")
	}
	setPhase(t, store, first, meshv1alpha1.OperationFailed, "x")
	if again := request("host9"); again == first {
		t.Error("an operation that has ended is taken for one under way")
	}
}

// together is a store in which lists wait for each other the first time, so that several
// callers see the same state before one of them writes.
type together struct {
	*objectstest.Store
	lists sync.WaitGroup
	first atomic.Int32 // lists that still wait
}

func (s *together) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	result, err := s.Store.List(ctx, req)
	if s.first.Add(-1) >= 0 {
		s.lists.Done()
		s.lists.Wait()
	}
	return result, err
}

// Commands on several hosts at the same time make one operation.
func TestRemovalsAtTheSameTimeAreOne(t *testing.T) {
	t.Parallel()
	const commands = 8
	store := &together{Store: objectstest.New()}
	store.first.Store(commands)
	store.lists.Add(commands)
	keys := make([]objects.Key, commands)
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() {
			var err error
			if keys[i], err = requestOperation(t.Context(), store, "remove", removalOf("host9")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, key := range keys {
		if key != keys[0] {
			t.Errorf("operations %v", keys)
		}
	}
	all, _, err := objects.List[*meshv1alpha1.Operation](t.Context(), store.Store, "", raftstore.ReadOptions{})
	if err != nil || len(all) != 1 {
		t.Errorf("%d operations, %v", len(all), err)
	}
}

// What ended a step reaches the command with its code, its object and its remedy.
func TestTheCommandHearsTheFault(t *testing.T) {
	t.Parallel()
	store := objectstest.New()
	key, err := requestOperation(t.Context(), store, "remove", removalOf("host9"))
	if err != nil {
		t.Fatal(err)
	}
	op, err := objects.Get[*meshv1alpha1.Operation](t.Context(), store, key, raftstore.ReadOptions{})
	if err != nil || op.Spec.RequestedBy != "someone through host1" {
		t.Errorf("requested by %q, %v", op.Spec.RequestedBy, err)
	}
	said := fault.New(fault.Conflict, "host9 is alive").About("host9").WithRemedy("run 'virtmesh agent leave' on it")
	next := op.DeepCopy()
	next.Status.Phase, next.Status.Message, next.Status.Fault = meshv1alpha1.OperationFailed, said.Error(), kinds.OperationFault(fmt.Errorf("check: %w", said))
	var tx objects.Tx
	tx.UpdateStatus(op, next)
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	recorder := httptest.NewRecorder()
	fault.Write(recorder, awaitOperation(t.Context(), store, key))
	got := fault.Read(recorder.Result())
	if want := "operation " + key.Name + " failed: check: host9 is alive"; got.Code != fault.Conflict || got.Object != "host9" || got.Remedy != said.Remedy || got.Sentence != want {
		t.Errorf("got %+v, want %q", got, want)
	}
}

func TestTheCommandHearsHowItEnds(t *testing.T) {
	t.Parallel()
	for phase, want := range map[meshv1alpha1.OperationPhase]string{
		meshv1alpha1.OperationSucceeded: "",
		meshv1alpha1.OperationFailed:    "host9 is alive",
		meshv1alpha1.OperationCancelled: "cancelled",
		meshv1alpha1.OperationRunning:   "continues (host9 is alive)",
	} {
		t.Run(string(phase), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := objectstest.New()
				key, err := requestOperation(t.Context(), store, "remove", removalOf("host9"))
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
				if phase == meshv1alpha1.OperationRunning && (!errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.UnknownOutcome)) {
					t.Errorf("got %v, want why it was given up", err)
				}
			})
		})
	}
}
