package executor

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// sleeper is a hypervisor whose guests sleep when told to.
type sleeper struct {
	hypervisor.Hypervisor
	asleep bool
}

func (s *sleeper) Get(ctx context.Context, ref hypervisor.Ref) (hypervisor.Domain, error) {
	domain, err := s.Hypervisor.Get(ctx, ref)
	if s.asleep && err == nil {
		domain.State, domain.Reason = hypervisor.StateSuspended, hypervisor.ReasonUnknown
	}
	return domain, err
}

func TestAGuestThatFallsAsleepAndWakesIsWrittenSeldom(t *testing.T) {
	w := newWorld(t)
	h := &sleeper{Hypervisor: w.hv}
	w.config.Hypervisor = h
	w.restart()
	vmi := w.running("a")
	before := w.store.Commits()
	const long = time.Hour
	for range int(long / (10 * time.Second)) {
		h.asleep = !h.asleep
		if result := w.reconcile(vmi); result.RequeueAfter > maxFlipPause {
			t.Fatalf("looks again after %v", result.RequeueAfter)
		}
		w.pass(10 * time.Second)
	}
	if n := w.store.Commits() - before; n > uint64(long/maxFlipPause)+10 {
		t.Errorf("%d writes in %v", n, long)
	}
	// What it does in the end is shown.
	for _, asleep := range []bool{true, false} {
		h.asleep = asleep
		w.pass(maxFlipPause)
		w.reconcile(vmi)
		want, reason := corev1.ConditionTrue, ""
		if asleep {
			want, reason = corev1.ConditionFalse, reasonNotRunning
		}
		w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, want, reason)
	}
	// After a quiet time its first change is shown at once, and the next soon.
	w.pass(flipQuiet)
	h.asleep = true
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, reasonNotRunning)
	h.asleep = false
	if result := w.reconcile(vmi); result.RequeueAfter <= 0 || result.RequeueAfter > minFlipPause {
		t.Errorf("looks again after %v", result.RequeueAfter)
	}
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, reasonNotRunning)
}

// A host that was taken for dead says that its guest runs, once, and the mark of the
// others stays as it is until then.
func TestAHostThatReturnsReportsItsGuests(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	w.pass(flipQuiet)
	mark := func() {
		w.change(vmi, func(next *kubevirtv1.VirtualMachineInstance) {
			machine.MarkOutOfReach(next, "host "+thisHost, time.Now())
		})
	}
	mark()
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
	mark()
	before := w.store.Commits()
	result := w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, machine.ReasonNodeUnresponsive)
	if n := w.store.Commits() - before; n != 0 || result.RequeueAfter <= 0 {
		t.Errorf("%d writes, looks again after %v", n, result.RequeueAfter)
	}
	w.pass(result.RequeueAfter)
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
}

// A guest whose disk fails and works again, without end, is written seldom. While a
// change waits to be shown, nothing is written for it, and a pause by a user is shown.
func TestAGuestThatIsStoppedAndGoesOnIsWrittenSeldom(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	before := w.store.Commits()
	const long = time.Hour
	for i := range int(long / (5 * time.Second)) {
		if i%2 == 0 {
			w.act(w.hv.Machine().Pause(refOf(vmi), hypervisor.ReasonIOError))
		} else {
			w.act(w.hv.Machine().Wake(refOf(vmi)))
		}
		if result := w.reconcile(vmi); result.RequeueAfter > maxFlipPause {
			t.Fatalf("looks again after %v", result.RequeueAfter)
		}
		w.pass(5 * time.Second)
	}
	if n := w.store.Commits() - before; n > uint64(long/maxFlipPause)+10 {
		t.Errorf("%d writes in %v", n, long)
	}
	w.pass(maxFlipPause)
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
	w.act(w.hv.Machine().Pause(refOf(vmi), hypervisor.ReasonIOError))
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, "PausedIOError")
	w.act(w.hv.Machine().Wake(refOf(vmi)))
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, reasonNotRunning)
	w.act(w.hv.Suspend(t.Context(), refOf(vmi)))
	w.reconcile(vmi)
	w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, "PausedByUser")
}

// A pause by a user is told at once, and so is the first by the host.
func TestPausesAreToldAtOnce(t *testing.T) {
	w := newWorld(t)
	vmi := w.running("a")
	guests := w.executor.Guests()
	for range 3 {
		w.act(guests.Pause(t.Context(), "ns", "a"))
		w.reconcile(vmi)
		w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionFalse, reasonNotRunning)
		w.act(guests.Unpause(t.Context(), "ns", "a"))
		w.reconcile(vmi)
		w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstanceReady, corev1.ConditionTrue, "")
	}
}

func TestPausesAreToldApart(t *testing.T) {
	for reason, want := range map[hypervisor.Reason]string{
		hypervisor.ReasonUser: "PausedByUser", hypervisor.ReasonIOError: "PausedIOError", hypervisor.ReasonWatchdog: "PausedWatchdog",
		hypervisor.ReasonMigration: "PausedByMigrationMonitor", hypervisor.ReasonPostcopyFailed: "PausedPostcopyFailed",
	} {
		w := newWorld(t)
		vmi := w.running("a")
		w.act(w.hv.Machine().Pause(refOf(vmi), reason))
		w.reconcile(vmi)
		w.expectCondition(w.get(vmi), kubevirtv1.VirtualMachineInstancePaused, corev1.ConditionTrue, want)
	}
}
