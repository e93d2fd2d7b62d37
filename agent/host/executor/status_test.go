package executor

import (
	"context"
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

func TestUnchangedReconcileWritesNothing(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().SetAgent(refOf(vmi), &guestAnswer))
	w.hear(vmi)
	before := w.get(vmi).ResourceVersion
	commits := w.store.Commits()
	for range 3 {
		w.reconcile(vmi)
	}
	if got := w.get(vmi).ResourceVersion; got != before || w.store.Commits() != commits {
		t.Errorf("revision %s, was %s; %d commits", got, before, w.store.Commits()-commits)
	}
}

func TestRestartOfTheAgentLeavesTheGuest(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	before := w.get(vmi).ResourceVersion
	events := w.hv.Subscribe(t.Context())
	w.restart()
	w.reconcile(vmi)
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning || domain.Owner.Epoch != testEpoch {
		t.Errorf("the domain: %+v", domain)
	}
	if got := w.get(vmi).ResourceVersion; got != before || w.volumes.prepared != 1 {
		t.Errorf("revision %s, was %s; volumes prepared %d times", got, before, w.volumes.prepared)
	}
	select {
	case event := <-events:
		t.Errorf("something was done to the guest: %+v", event)
	default:
	}
}

// The agent may end between the start of a guest and its report.
func TestStartThatWasNotReported(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	w.sync(vmi)
	w.store.Fail(errors.New("no quorum"))
	if _, err := w.try(vmi); err == nil {
		t.Fatal("no error, so nobody tries again")
	}
	w.store.Fail(nil)
	w.restart()
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running || w.volumes.prepared != 1 {
		t.Errorf("phase %s, volumes prepared %d times", got.Status.Phase, w.volumes.prepared)
	}
}

func TestPauseIsACondition(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	guests := w.executor.Guests()
	w.act(guests.Pause(t.Context(), "ns", "a"))
	w.reconcile(vmi)
	got := w.get(vmi)
	w.expectCondition(got, kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, "PausedByUser")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, "GuestNotRunning")
	if got.Status.Phase != kubevirtv1.Running {
		t.Errorf("phase %s", got.Status.Phase)
	}
	if err := guests.Pause(t.Context(), "ns", "a"); err == nil {
		t.Error("paused twice")
	}
	w.act(guests.Unpause(t.Context(), "ns", "a"))
	w.reconcile(vmi)
	if paused := condition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused); paused != nil {
		t.Errorf("resumed: %+v", paused)
	}
	w.act(w.hv.Machine().IOError(refOf(vmi), "root", "enospc"))
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, "PausedIOError")
}

func TestUnreachableHypervisorChangesNothing(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	before := w.get(vmi).ResourceVersion
	w.hv.Machine().SetAway(true)
	if _, err := w.try(vmi); !errors.Is(err, hypervisor.ErrUnavailable) {
		t.Errorf("error %v, want one to retry on", err)
	}
	w.hv.Machine().SetAway(false)
	if got := w.get(vmi); got.ResourceVersion != before {
		t.Errorf("written: %+v", got.Status)
	}
}

func TestDomainEventsNameTheirInstances(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	keys := make(chan stewards.Key, 16)
	unsubscribe := w.executor.Subscribe(func(key stewards.Key) { keys <- key })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.executor.Observe(ctx) }()
	// Observe subscribes on its own time: an event before that is lost.
	deadline := time.After(time.Minute)
	for seen := false; !seen; {
		w.act(w.hv.Suspend(t.Context(), refOf(vmi)))
		w.act(w.hv.Resume(t.Context(), refOf(vmi)))
		select {
		case key := <-keys:
			seen = key == objects.KeyOf(vmi)
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("no event came")
		}
	}
	unsubscribe()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if all := w.executor.Keys(); len(all) != 1 || all[0] != objects.KeyOf(vmi) {
		t.Errorf("keys of domains: %v", all)
	}
}
