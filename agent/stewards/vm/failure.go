package vm

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// noteFailures counts the instances that failed before they ran, and those that ended
// by themselves so soon that starting them again at once would be a loop: a guest that
// powers off while it boots, for example. It clears the count when an instance has run
// for longer than the longest pause, or when the run strategy does not restart the
// machine by itself. The instance has been as it is for an age. noteFailures returns when
// the count is to be cleared; zero for never.
func noteFailures(t *turn, age, backoffMin, backoffMax time.Duration) (again time.Duration) {
	last := t.vm.Status.StartFailure
	if latest := t.now.Add(backoffMax); last != nil && last.RetryAfterTimestamp != nil && last.RetryAfterTimestamp.After(latest) {
		// Another steward's clock was ahead, or this one's was set back.
		retry := metav1.NewTime(latest.Truncate(time.Second))
		last.RetryAfterTimestamp = &retry
	}
	switch {
	case t.was != nil && !machine.EndedWithHost(t.was) && (failedEarly(t.was) || endedSoon(t.vm, t.was, backoffMax)):
		noteStartFailure(t.vm, t.was, t.now, backoffMin, backoffMax)
	case !restartsByItself(t.vm):
		t.vm.Status.StartFailure = nil
	case last == nil || t.was == nil || !everRan(t.was) || last.LastFailedVMIUID == t.was.UID:
	case t.was.IsFinal():
		t.vm.Status.StartFailure = nil
	default:
		if again = backoffMax - age; again <= 0 {
			t.vm.Status.StartFailure, again = nil, 0
		}
	}
	return again
}

// running says whether an instance runs.
type running struct {
	uid  types.UID
	runs bool
}

// runFor returns for how long the instance has been running, or not. The time at which it
// began comes from the clock of its host, and counts only if this host has not seen it
// begin. Of machines that did not fail to start nobody needs to know it.
func (c *Controller) runFor(t *turn) time.Duration {
	key := objects.KeyOf(t.vm).String()
	if t.vm.Status.StartFailure == nil {
		c.runs.Forget(key)
		return 0
	}
	var is running
	var stamped time.Duration
	if t.was != nil {
		is = running{t.was.UID, t.was.Status.Phase == kubevirtv1.Running}
		if is.runs {
			stamped = ranFor(t.was, t.now)
		}
	}
	return c.runs.Age(key, is, stamped)
}

func noteStartFailure(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, now time.Time, backoffMin, backoffMax time.Duration) {
	last := vm.Status.StartFailure
	if last != nil && last.LastFailedVMIUID == vmi.UID {
		return
	}
	count := 1
	if last != nil {
		count = last.ConsecutiveFailCount + 1
	}
	retry := metav1.NewTime(now.Add(backoff(count, backoffMin, backoffMax)).Truncate(time.Second))
	vm.Status.StartFailure = &kubevirtv1.VirtualMachineStartFailure{
		ConsecutiveFailCount: count, LastFailedVMIUID: vmi.UID, RetryAfterTimestamp: &retry,
	}
}

// backoff doubles from least with every failure, up to most.
func backoff(failures int, least, most time.Duration) time.Duration {
	d := least
	for i := 1; i < failures && d < most; i++ {
		d *= 2
	}
	return min(d, most)
}

// backoffLeft is how long a start has to wait.
func backoffLeft(vm *kubevirtv1.VirtualMachine, now time.Time) time.Duration {
	f := vm.Status.StartFailure
	if f == nil || f.RetryAfterTimestamp == nil {
		return 0
	}
	return max(0, f.RetryAfterTimestamp.Sub(now))
}

// failedEarly reports whether the instance failed without having run.
func failedEarly(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return vmi.Status.Phase == kubevirtv1.Failed && !everRan(vmi)
}

// everRan reports whether the instance has been running at some time.
func everRan(vmi *kubevirtv1.VirtualMachineInstance) bool {
	if vmi.Status.Phase == kubevirtv1.Running {
		return true
	}
	for _, t := range vmi.Status.PhaseTransitionTimestamps {
		if t.Phase == kubevirtv1.Running {
			return true
		}
	}
	return false
}

// endedSoon reports whether the instance ended by itself within soon after its guest
// had started, and its machine will be started again because of that.
func endedSoon(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, soon time.Duration) bool {
	if !vmi.IsFinal() || vmi.DeletionTimestamp != nil || asksToStop(vm, vmi.UID) || !everRan(vmi) {
		return false
	}
	ended := phaseBegan(vmi, vmi.Status.Phase)
	if ended.IsZero() || ranFor(vmi, ended) >= soon {
		return false
	}
	switch strategy, _ := vm.RunStrategy(); strategy {
	case kubevirtv1.RunStrategyAlways:
		return true
	case kubevirtv1.RunStrategyRerunOnFailure:
		return vmi.Status.Phase == kubevirtv1.Failed
	}
	return false
}

// ranFor is how long the guest had run at the time now.
func ranFor(vmi *kubevirtv1.VirtualMachineInstance, now time.Time) time.Duration {
	return now.Sub(phaseBegan(vmi, kubevirtv1.Running))
}

// phaseBegan is when the instance entered a phase; zero if that is not known.
func phaseBegan(vmi *kubevirtv1.VirtualMachineInstance, phase kubevirtv1.VirtualMachineInstancePhase) time.Time {
	for _, t := range vmi.Status.PhaseTransitionTimestamps {
		if t.Phase == phase {
			return t.PhaseTransitionTimestamp.Time
		}
	}
	return time.Time{}
}

// restartsByItself reports whether the run strategy starts the machine again
// without being asked, so that failures to start may form a loop.
func restartsByItself(vm *kubevirtv1.VirtualMachine) bool {
	switch strategy, _ := vm.RunStrategy(); strategy {
	case kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyRerunOnFailure, kubevirtv1.RunStrategyOnce:
		return true
	}
	return false
}

// clearFailure removes the Failure condition, because the failure that it
// reports has passed.
func clearFailure(vm *kubevirtv1.VirtualMachine) {
	machine.DropMachineConditions(vm, kubevirtv1.VirtualMachineFailure)
}
