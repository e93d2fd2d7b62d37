package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
)

func TestScheduledInstanceStarts(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	domain, found := w.domain(vmi)
	if !found || domain.State != hypervisor.StateRunning {
		t.Fatalf("domain: %+v, found %v", domain, found)
	}
	want := hypervisor.Owner{Ref: hypervisor.Ref{Namespace: "ns", Name: "a", UID: string(vmi.UID)}, Host: thisHost, Epoch: testEpoch, GraceSeconds: 30}
	if domain.Owner != want {
		t.Errorf("the domain carries %+v, want %+v", domain.Owner, want)
	}
	got := w.get(vmi)
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
	if c := condition(got, kubevirtv1.VirtualMachineInstanceSynchronized); c != nil {
		t.Errorf("nothing is amiss, and the status says %+v", c)
	}
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceIsMigratable, corev1.ConditionFalse, "MigrationNotAvailable")
	if n := len(got.Status.Interfaces); n != 1 || got.Status.Interfaces[0].MAC != testMAC {
		t.Errorf("interfaces: %+v", got.Status.Interfaces)
	}
	if w.volumes.prepared != 1 || w.volumes.released != 1 {
		t.Errorf("volumes prepared %d times, released %d", w.volumes.prepared, w.volumes.released)
	}
	if volumes := got.Status.VolumeStatus; len(volumes) != 1 || volumes[0].Name != "root" {
		t.Errorf("volumes: %+v", volumes)
	}
	if w.told("Started") != 1 || w.told("Approximated") != 0 {
		t.Errorf("%d events of the start, %d of approximations", w.told("Started"), w.told("Approximated"))
	}
	if digests := got.Annotations[AnnotationImages]; digests != `{"root":"sha256:12"}` {
		t.Errorf("image digests %q", digests)
	}
}

func TestAnotherHostsInstanceIsNotStarted(t *testing.T) {
	w := newWorld(t)
	vmi := scheduled("a")
	vmi.Status.NodeName = otherHost
	w.commit(func(tx *objects.Tx) { tx.Create(vmi) })
	w.claimFor(vmi, otherHost)
	w.reconcile(vmi)
	if _, found := w.domain(vmi); found || w.volumes.prepared != 0 {
		t.Errorf("domain %v, volumes prepared %d times", found, w.volumes.prepared)
	}
}

func TestNothingStartsWithoutAClaim(t *testing.T) {
	w := newWorld(t)
	vmi := scheduled("a")
	w.commit(func(tx *objects.Tx) { tx.Create(vmi) })
	if _, err := w.try(vmi); err == nil {
		t.Error("no error, so nobody tries again")
	}
	if _, found := w.domain(vmi); found || w.volumes.prepared != 0 {
		t.Errorf("domain %v, volumes prepared %d times", found, w.volumes.prepared)
	}
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Scheduled {
		t.Errorf("phase %s", got.Status.Phase)
	}
}

func TestVolumeFailureIsToldAndRetried(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	cause := errors.New("manifest unknown")
	w.volumes.fail = &VolumeError{Volume: "root", Reason: "ErrImagePull", Err: cause}
	if _, err := w.try(vmi); !errors.Is(err, cause) {
		t.Fatalf("error %v, want one to retry on", err)
	}
	got := w.get(vmi)
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceSynchronized, corev1.ConditionFalse, "ErrImagePull")
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, "ErrImagePull")
	if got.Status.Phase != kubevirtv1.Scheduled {
		t.Errorf("phase %s", got.Status.Phase)
	}
	// The same failure again is no news.
	w.pass(maxStartPause)
	before := w.store.Commits()
	if _, err := w.try(vmi); err == nil || w.store.Commits() != before {
		t.Errorf("error %v, %d commits", err, w.store.Commits()-before)
	}
	w.volumes.fail = nil
	w.pass(maxStartPause)
	w.reconcile(vmi)
	got = w.get(vmi)
	if c := condition(got, kubevirtv1.VirtualMachineInstanceSynchronized); c != nil {
		t.Errorf("nothing is amiss, and the status says %+v", c)
	}
	w.expectCondition(got, kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
}

// On a host that lacks what must keep guests apart, no guest starts until it has it.
func TestNothingStartsWhereTheHostRefuses(t *testing.T) {
	w := newWorld(t)
	var refusal error = &hypervisor.Fault{Code: hypervisor.FaultUnconfined, Sentence: "no profiles"}
	w.config.MayStart = func() error { return refusal }
	w.restart()
	vmi := w.place(scheduled("a"))
	if _, err := w.try(vmi); !errors.Is(err, refusal) {
		t.Fatal(err)
	}
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceSynchronized, corev1.ConditionFalse, "Unconfined")
	if domains, err := w.hv.List(t.Context()); err != nil || len(domains) > 0 {
		t.Errorf("the host has %+v, %v", domains, err)
	}
	refusal = nil
	w.pass(maxStartPause)
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running {
		t.Errorf("phase %s", got.Status.Phase)
	}
}

func TestNetworkAndHypervisorFailuresAreRetried(t *testing.T) {
	w := newWorld(t)
	vmi := w.place(scheduled("a"))
	w.network.fail = errors.New("no bridge br7")
	if _, err := w.try(vmi); !errors.Is(err, w.network.fail) {
		t.Fatal(err)
	}
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceSynchronized, corev1.ConditionFalse, "FailedCreate")
	w.network.fail = nil
	w.pass(maxStartPause)
	w.hv.Machine().Fail("Start", errors.New("no memory"))
	if _, err := w.try(vmi); err == nil {
		t.Fatal("a failed start is not retried")
	}
	if w.volumes.released != 2 {
		t.Errorf("volumes were held %d times of 2", 2-w.volumes.released)
	}
	w.pass(maxStartPause)
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running {
		t.Errorf("phase %s", got.Status.Phase)
	}
}

func TestWhatCanNeverStartFails(t *testing.T) {
	w := newWorld(t)
	vmi := scheduled("a")
	vmi.Spec.Domain.Devices.Disks[0].Disk.Bus = "floppy"
	w.place(vmi)
	w.reconcile(vmi)
	w.expectEnded(vmi, kubevirtv1.Failed)
}

func TestStartPaused(t *testing.T) {
	w := newWorld(t)
	vmi := scheduled("a")
	strategy := kubevirtv1.StartStrategyPaused
	vmi.Spec.StartStrategy = &strategy
	w.place(vmi)
	w.reconcile(vmi)
	if domain, _ := w.domain(vmi); domain.State != hypervisor.StatePaused {
		t.Errorf("the guest is %s", domain.State)
	}
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, "PausedByUser")
}

// A new instance of the same name must not wait for the domain of the old one.
func TestSuccessorReplacesTheDomainOfItsPredecessor(t *testing.T) {
	w := newWorld(t)
	old := w.running("a")
	w.unclaim(old)
	w.change(old, func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Finalizers = nil })
	w.commit(func(tx *objects.Tx) { tx.Delete(w.get(old), objects.DeleteOptions{}) })
	next := w.place(scheduled("a"))
	w.reconcile(next)
	if _, found := w.domain(old); found {
		t.Error("the domain of the old instance is still there")
	}
	if domain, found := w.domain(next); !found || domain.State != hypervisor.StateRunning {
		t.Errorf("the new domain: %+v, found %v", domain, found)
	}
}

// What this host cannot give exactly is told with the start.
func TestApproximationsAreTold(t *testing.T) {
	w := newWorld(t)
	w.machine.KVM = false
	w.restart()
	w.running("a")
	if n := w.told("Approximated"); n != 1 {
		t.Errorf("%d events", n)
	}
}

// hanging is a daemon whose starts hang until release is closed.
type hanging struct {
	hypervisor.Hypervisor
	begun   chan struct{}
	release chan struct{}
}

func (h *hanging) Start(ctx context.Context, xml string, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	h.begun <- struct{}{}
	<-h.release
	return h.Hypervisor.Start(ctx, xml, opts)
}

// Starts that hang take some of the workers, and not those that stop guests.
func TestStartsThatHangLeaveWorkersFree(t *testing.T) {
	w := newWorld(t)
	h := &hanging{Hypervisor: w.hv, begun: make(chan struct{}, MaxStarts), release: make(chan struct{})}
	w.config.Hypervisor = h
	w.restart()
	var others sync.WaitGroup
	for i := range MaxStarts {
		vmi := w.place(scheduled(fmt.Sprintf("hangs%d", i)))
		w.sync(vmi)
		others.Go(func() { _, _ = w.try(vmi) })
		<-h.begun
	}
	vmi := w.place(scheduled("waits"))
	if result := w.reconcile(vmi); result.RequeueAfter != startInterval {
		t.Errorf("looks again after %v, want %v", result.RequeueAfter, startInterval)
	}
	close(h.release)
	others.Wait()
	w.reconcile(vmi)
	if got := w.get(vmi); got.Status.Phase != kubevirtv1.Running {
		t.Errorf("phase %s", got.Status.Phase)
	}
}
