package vmi

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// SetPhase moves an instance to a phase and records the time of the move. An
// instance that is in the phase already is not changed.
func SetPhase(vmi *kubevirtv1.VirtualMachineInstance, phase kubevirtv1.VirtualMachineInstancePhase, now time.Time) {
	if vmi.Status.Phase == phase {
		return
	}
	vmi.Status.Phase = phase
	vmi.Status.PhaseTransitionTimestamps = append(vmi.Status.PhaseTransitionTimestamps,
		kubevirtv1.VirtualMachineInstancePhaseTransitionTimestamp{Phase: phase, PhaseTransitionTimestamp: storedTime(now)})
}

// SetCondition sets the condition of c's type. Its transition time is now if the
// condition is new or its status changes, and stays as it was otherwise.
func SetCondition(vmi *kubevirtv1.VirtualMachineInstance, c kubevirtv1.VirtualMachineInstanceCondition, now time.Time) {
	c.LastTransitionTime = storedTime(now)
	have := Condition(vmi, c.Type)
	if have == nil {
		vmi.Status.Conditions = append(vmi.Status.Conditions, c)
		return
	}
	if have.Status == c.Status && !have.LastTransitionTime.IsZero() {
		c.LastTransitionTime = have.LastTransitionTime
	}
	c.LastProbeTime = have.LastProbeTime
	*have = c
}

// Condition returns the condition of a type, nil if the instance has none. It
// points into the instance's status.
func Condition(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType) *kubevirtv1.VirtualMachineInstanceCondition {
	i := slices.IndexFunc(vmi.Status.Conditions, func(c kubevirtv1.VirtualMachineInstanceCondition) bool { return c.Type == kind })
	if i < 0 {
		return nil
	}
	return &vmi.Status.Conditions[i]
}

// HasCondition reports whether the instance has the condition and its status is
// True.
func HasCondition(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType) bool {
	c := Condition(vmi, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

// DropConditions removes the conditions of the given types.
func DropConditions(vmi *kubevirtv1.VirtualMachineInstance, kinds ...kubevirtv1.VirtualMachineInstanceConditionType) {
	vmi.Status.Conditions = slices.DeleteFunc(vmi.Status.Conditions, func(c kubevirtv1.VirtualMachineInstanceCondition) bool {
		return slices.Contains(kinds, c.Type)
	})
}

// SetMachineCondition is SetCondition for a VirtualMachine.
func SetMachineCondition(vm *kubevirtv1.VirtualMachine, c kubevirtv1.VirtualMachineCondition, now time.Time) {
	c.LastTransitionTime = storedTime(now)
	i := slices.IndexFunc(vm.Status.Conditions, func(have kubevirtv1.VirtualMachineCondition) bool { return have.Type == c.Type })
	if i < 0 {
		vm.Status.Conditions = append(vm.Status.Conditions, c)
		return
	}
	have := &vm.Status.Conditions[i]
	if have.Status == c.Status && !have.LastTransitionTime.IsZero() {
		c.LastTransitionTime = have.LastTransitionTime
	}
	c.LastProbeTime = have.LastProbeTime
	*have = c
}

// DropMachineConditions removes the conditions of the given types from a
// VirtualMachine.
func DropMachineConditions(vm *kubevirtv1.VirtualMachine, kinds ...kubevirtv1.VirtualMachineConditionType) {
	vm.Status.Conditions = slices.DeleteFunc(vm.Status.Conditions, func(c kubevirtv1.VirtualMachineCondition) bool {
		return slices.Contains(kinds, c.Type)
	})
}

// storedTime is a time as the API stores it: in whole seconds. A finer one would
// differ from what is read back, and be written again.
func storedTime(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

// NewCondition returns a condition whose status is True if on, and else False.
func NewCondition(kind kubevirtv1.VirtualMachineInstanceConditionType, on bool, reason, message string) kubevirtv1.VirtualMachineInstanceCondition {
	status := corev1.ConditionFalse
	if on {
		status = corev1.ConditionTrue
	}
	return kubevirtv1.VirtualMachineInstanceCondition{Type: kind, Status: status, Reason: reason, Message: message}
}

// ReasonNodeUnresponsive is the reason of condition Ready while the host of an instance, or
// its hypervisor, does not answer. KubeVirt has the name.
const ReasonNodeUnresponsive = "NodeUnresponsive"

// MarkOutOfReach sets condition Ready of an instance of which somebody does not answer, such
// as "host h1" or "the hypervisor of host h1": nobody else knows whether its guest runs.
func MarkOutOfReach(vmi *kubevirtv1.VirtualMachineInstance, silent string, now time.Time) {
	SetCondition(vmi, NewCondition(kubevirtv1.VirtualMachineInstanceReady, false, ReasonNodeUnresponsive,
		silent+" does not answer: it is not known whether the guest runs"), now)
}

// IsOutOfReach reports whether MarkOutOfReach was the last to set condition Ready.
func IsOutOfReach(vmi *kubevirtv1.VirtualMachineInstance) bool {
	c := Condition(vmi, kubevirtv1.VirtualMachineInstanceReady)
	return c != nil && c.Status == corev1.ConditionFalse && c.Reason == ReasonNodeUnresponsive
}

// NotRunningYet returns condition Ready of an instance whose guest was not started yet.
func NotRunningYet() kubevirtv1.VirtualMachineInstanceCondition {
	return NewCondition(kubevirtv1.VirtualMachineInstanceReady, false, kubevirtv1.GuestNotRunningReason, "the guest does not run yet")
}

// EndWithHost sets the status of an instance whose host was removed from the mesh.
func EndWithHost(vmi *kubevirtv1.VirtualMachineInstance, now time.Time) {
	SetPhase(vmi, kubevirtv1.Failed, now)
	vmi.Status.Reason = ReasonNodeUnresponsive
}

// EndedWithHost reports whether the instance failed because its host was removed, which
// says nothing about the next start of its machine.
func EndedWithHost(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return vmi.Status.Reason == ReasonNodeUnresponsive
}
