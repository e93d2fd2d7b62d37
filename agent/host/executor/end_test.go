package executor

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

func TestGuestThatPowersOffSucceeds(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Succeeded)
	before := w.store.Commits()
	w.reconcile(vmi)
	if n := w.store.Commits() - before; n != 0 {
		t.Errorf("an instance that has ended was written %d times", n)
	}
}

func TestGuestThatCrashesFails(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().Crash(refOf(vmi)))
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Failed)
}

// Only a guest that shut down by itself has succeeded: a machine that is to be
// rerun on failure comes back after the loss of its host's power.
func TestGuestThatWasEndedByOthersFails(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.hv.Machine().PowerLoss()
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Failed)
	for i, reason := range []hypervisor.Reason{hypervisor.ReasonMissed, hypervisor.ReasonDestroyed, hypervisor.ReasonFailed} {
		vmi := w.running(fmt.Sprintf("b%d", i))
		w.act(w.hv.Machine().End(refOf(vmi), reason))
		w.reconcile(vmi)
		w.expectEnded(vmi, kubevirtv1.Failed)
	}
}

func TestRunningInstanceWithoutADomainFails(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Destroy(t.Context(), refOf(vmi)))
	w.act(w.hv.Undefine(t.Context(), refOf(vmi), hypervisor.UndefineOptions{}))
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Failed)
	if w.volumes.prepared != 1 {
		t.Error("the lost guest was started again")
	}
}

// The claim may go only when the end is in the store, in the same transaction.
func TestTheEndIsReportedAndTheClaimReleasedTogether(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Machine().PowerOff(refOf(vmi)))
	w.store.Fail(raftstore.ErrNoLeader)
	if _, err := w.try(vmi); err == nil {
		t.Fatal("no error, so nobody tries again")
	}
	if len(w.store.Keys(claimKey(vmi))) != 1 || w.get(vmi).Status.Phase != kubevirtv1.Running {
		t.Error("part of the end is in the store")
	}
	w.store.Fail(nil)
	w.reconcile(vmi)
	got := w.get(vmi)
	// The domain is gone by now, and how the guest ended is still known.
	if got.Status.Phase != kubevirtv1.Succeeded || len(got.Finalizers) != 0 {
		t.Errorf("phase %s, finalizers %v", got.Status.Phase, got.Finalizers)
	}
	w.expectNothingLeft(vmi)
}

// deleteWith asks for the deletion of an instance with this grace period.
func (w *world) deleteWith(vmi *kubevirtv1.VirtualMachineInstance, grace int64) {
	w.t.Helper()
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Spec.TerminationGracePeriodSeconds = &grace })
	w.commit(func(tx *objects.Tx) { tx.Delete(w.get(vmi), objects.DeleteOptions{}) })
}

func TestDeletionShutsTheGuestDown(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.deleteWith(vmi, 3600)
	if result := w.reconcile(vmi); result.RequeueAfter <= 0 || result.RequeueAfter > shutdownInterval {
		t.Errorf("looks again after %v", result.RequeueAfter)
	}
	domain, found := w.domain(vmi)
	if !found || domain.State != hypervisor.StateShutoff || domain.Reason != hypervisor.ReasonShutdown {
		t.Fatalf("the guest was not asked to shut down: %+v", domain)
	}
	w.reconcile(vmi)
	if got := w.get(vmi); got != nil {
		t.Errorf("the instance is still there, with finalizers %v", got.Finalizers)
	}
	w.expectNothingLeft(vmi)
}

// deaf is a guest that does not hear the request to shut down.
type deaf struct {
	hypervisor.Hypervisor
	asked int
}

func (d *deaf) Shutdown(context.Context, hypervisor.Ref) error { d.asked++; return nil }

func TestPowerIsCutAfterTheGracePeriod(t *testing.T) {
	w := newWorld(t)
	guest := &deaf{Hypervisor: w.hv}
	w.config.Hypervisor = guest
	w.restart()
	vmi := w.running("a")
	w.deleteWith(vmi, 3600)
	for range 2 {
		w.reconcile(vmi)
	}
	if domain, found := w.domain(vmi); !found || domain.State != hypervisor.StateRunning {
		t.Fatalf("the guest was not given its time: %+v", domain)
	}
	if guest.asked != 2 {
		t.Errorf("asked %d times, want again and again", guest.asked)
	}
	w.pass(time.Hour)
	w.reconcile(vmi)
	if got := w.get(vmi); got != nil {
		t.Errorf("the instance is still there, with finalizers %v", got.Finalizers)
	}
	w.expectNothingLeft(vmi)
	if guest.asked != 2 || w.told("GracePeriodEnded") != 1 || w.told("Stopped") != 1 {
		t.Errorf("asked %d times, events: %d, %d", guest.asked, w.told("GracePeriodEnded"), w.told("Stopped"))
	}
}

// A clock that is set while the guest shuts down and the agent is restarted changes
// nothing: neither does the guest lose time, nor does it get more.
func TestAClockThatIsSetTakesNoGracePeriod(t *testing.T) {
	for _, set := range []time.Duration{time.Hour, -time.Hour, 0} {
		w := newWorld(t)
		w.config.Hypervisor = &deaf{Hypervisor: w.hv}
		w.restart()
		vmi := w.running("a")
		w.deleteWith(vmi, 60)
		w.reconcile(vmi)
		w.set = set
		w.restart()
		w.pass(shutdownInterval)
		w.reconcile(vmi)
		if domain, ok := w.domain(vmi); !ok || !domain.State.Active() {
			t.Errorf("the power was cut before the grace period was over: the clock was set by %s", set)
		}
		w.pass(58 * time.Second)
		w.reconcile(vmi)
		w.expectNothingLeft(vmi)
	}
}

// Who gives a guest no time has its power cut without a question.
func TestAGuestWithoutAGracePeriodIsNotAsked(t *testing.T) {
	w := newWorld(t)
	guest := &deaf{Hypervisor: w.hv}
	w.config.Hypervisor = guest
	w.restart()
	vmi := w.running("a")
	w.deleteWith(vmi, 0)
	w.reconcile(vmi)
	if got := w.get(vmi); got != nil || guest.asked != 0 {
		t.Errorf("instance %v, asked %d times", got, guest.asked)
	}
	w.expectNothingLeft(vmi)
	if w.told("GracePeriodEnded") != 0 {
		t.Error("it is told that a grace period ended")
	}
}

func TestPausedGuestIsWokenToShutDown(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.act(w.hv.Suspend(t.Context(), refOf(vmi)))
	w.deleteWith(vmi, 3600)
	w.reconcile(vmi)
	if domain, _ := w.domain(vmi); domain.Reason != hypervisor.ReasonShutdown {
		t.Errorf("the guest is %s (%s)", domain.State, domain.Reason)
	}
}

func TestDeletionBeforeTheStart(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	w.deleteWith(vmi, 3600)
	w.reconcile(vmi)
	if got := w.get(vmi); got != nil || w.volumes.prepared != 0 {
		t.Errorf("instance %v, volumes prepared %d times", got, w.volumes.prepared)
	}
	w.expectNothingLeft(vmi)
}

// forget removes the instance from the store behind the executor's back.
func (w *world) forget(vmi *kubevirtv1.VirtualMachineInstance) {
	w.t.Helper()
	w.change(vmi, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Finalizers = nil })
	w.commit(func(tx *objects.Tx) { tx.Delete(w.get(vmi), objects.DeleteOptions{}) })
}

func TestOrphanIsDestroyed(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	other := w.running("b")
	w.forget(vmi)
	w.reconcile(vmi)
	if _, found := w.domain(vmi); found {
		t.Error("the orphan is still there")
	}
	if domain, _ := w.domain(other); domain.State != hypervisor.StateRunning {
		t.Errorf("another guest is %s", domain.State)
	}
}

func TestOrphanLivesWhileTheMeshCannotBeAsked(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.forget(vmi)
	w.sync(vmi)
	w.store.cut.Store(true)
	if _, err := w.try(vmi); !errors.Is(err, raftstore.ErrNoLeader) {
		t.Errorf("error %v, want one to retry on", err)
	}
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning {
		t.Errorf("the guest is %s", domain.State)
	}
}

// The replica of a host that was cut off shows the past: only the mesh counts.
func TestLaggingReplicaCostsNoGuestItsLife(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	lagging := newWorld(t)
	w.config.Instances = lagging.vmis
	w.restart()
	if _, err := w.executor.Reconcile(t.Context(), objects.KeyOf(vmi)); err != nil {
		t.Fatal(err)
	}
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StateRunning {
		t.Errorf("the guest is %s", domain.State)
	}
}

func TestInstanceThatMovedLeavesNoDomain(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.move(vmi)
	w.reconcile(vmi)
	if _, found := w.domain(vmi); found {
		t.Error("the domain is still here")
	}
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running || len(got.Finalizers) != 1 {
		t.Errorf("this host spoke for another one: %s, %v", got.Status.Phase, got.Finalizers)
	}
}

// A guest that was shut down with its host did not choose to end: after the boot it is told
// apart from one that did, and run strategies bring it back that would not bring that one back.
func TestGuestsThatEndedWithTheirHost(t *testing.T) {
	w := newWorld(t)
	vmi, own := w.running("a"), w.running("b")
	domain, _ := w.domain(vmi)
	w.act(w.hv.Shutdown(t.Context(), refOf(vmi)))
	name, value, due := HostEnd(domain, false)
	if !due {
		t.Fatal("it is not to be recorded")
	}
	w.act(w.hv.SetRecord(t.Context(), refOf(vmi), name, value))
	w.act(w.hv.Machine().PowerOff(refOf(own)))
	w.restart()
	w.reconcile(vmi)
	w.reconcile(own)
	w.expectEnded(own, kubevirtv1.Succeeded)
	w.expectEnded(vmi, kubevirtv1.Failed)
	if w.told("HostShutDown") != 1 || w.told("Stopped") != 1 {
		t.Errorf("events: %d, %d", w.told("HostShutDown"), w.told("Stopped"))
	}
	domain.Records = map[string]string{name: value}
	if _, _, due := HostEnd(domain, true); due {
		t.Error("how the guest ended is recorded twice")
	}
}
