package vm

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// noteFailures counts the instances that failed before they ran. It clears the
// count when an instance has run, or when the run strategy does not restart the
// machine by itself.
func noteFailures(t *turn, backoffMin, backoffMax time.Duration) {
	switch {
	case t.was != nil && failedEarly(t.was):
		noteStartFailure(t.vm, t.was, t.now, backoffMin, backoffMax)
	case t.was != nil && everRan(t.was), !restartsByItself(t.vm):
		t.vm.Status.StartFailure = nil
	}
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
