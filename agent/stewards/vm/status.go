package vm

import (
	"context"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

const (
	podScheduled = kubevirtv1.VirtualMachineInstanceConditionType(corev1.PodScheduled)

	reasonPVCNotFound      = "FailedPvcNotFound"
	reasonErrImagePull     = "ErrImagePull"
	reasonImagePullBackOff = "ImagePullBackOff"
)

// syncStatus derives the machine's status from its instance as it will be.
func (c *Controller) syncStatus(ctx context.Context, t *turn) {
	s := &t.vm.Status
	if t.failure == nil {
		clearFailure(t.vm)
	}
	s.Created = t.vmi != nil
	s.Ready = t.vmi != nil && machine.HasCondition(t.vmi, kubevirtv1.VirtualMachineInstanceReady)
	volumes := c.volumeState(t.vm)
	syncConditions(t.vm, t.vmi, volumes, t.now)
	syncRestartRequired(t.vm, c.restartRequired(ctx, t.vm, t.vmi), t.now)
	s.VolumeSnapshotStatuses = snapshotStatuses(t.vm)
	s.DesiredGeneration = t.vm.Generation
	s.ObservedGeneration = observedGeneration(t.vmi, s.ObservedGeneration)
	s.PrintableStatus = printableStatus(t.vm, t.vmi, volumes)
}

// observedGeneration is the generation of the machine from which its instance
// was made.
func observedGeneration(vmi *kubevirtv1.VirtualMachineInstance, last int64) int64 {
	if vmi == nil {
		return last
	}
	if n, err := strconv.ParseInt(vmi.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation], 10, 64); err == nil {
		return n
	}
	return last
}

// ownConditions are not copied from the instance.
var ownConditions = []kubevirtv1.VirtualMachineConditionType{
	kubevirtv1.VirtualMachineReady,
	kubevirtv1.VirtualMachineFailure,
	kubevirtv1.VirtualMachineRestartRequired,
	kubevirtv1.VirtualMachineManualRecoveryRequired,
	"Initialized",
}

// syncConditions copies the conditions of the instance to its machine, and
// drops those that the instance no longer has. A machine without one may wait for
// its data volumes.
func syncConditions(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, volumes volumeState, now time.Time) {
	machine.SetMachineCondition(vm, readyCondition(vmi), now)
	copied := map[kubevirtv1.VirtualMachineConditionType]bool{}
	if vmi != nil {
		for _, c := range vmi.Status.Conditions {
			kind := kubevirtv1.VirtualMachineConditionType(c.Type)
			if slices.Contains(ownConditions, kind) {
				continue
			}
			copied[kind] = true
			machine.SetMachineCondition(vm, kubevirtv1.VirtualMachineCondition{Type: kind, Status: c.Status, Reason: c.Reason, Message: c.Message}, now)
		}
	} else if c, waits := dataVolumesCondition(volumes); waits {
		copied[c.Type] = true
		machine.SetMachineCondition(vm, c, now)
	}
	vm.Status.Conditions = slices.DeleteFunc(vm.Status.Conditions, func(c kubevirtv1.VirtualMachineCondition) bool {
		return !copied[c.Type] && !slices.Contains(ownConditions, c.Type)
	})
}

func syncRestartRequired(vm *kubevirtv1.VirtualMachine, restart bool, now time.Time) {
	if !restart {
		machine.DropMachineConditions(vm, kubevirtv1.VirtualMachineRestartRequired)
		return
	}
	machine.SetMachineCondition(vm, kubevirtv1.VirtualMachineCondition{
		Type: kubevirtv1.VirtualMachineRestartRequired, Status: corev1.ConditionTrue, Reason: "RestartRequired",
		Message: "a non-live-updatable field was changed in the template spec",
	}, now)
}

func readyCondition(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachineCondition {
	c := kubevirtv1.VirtualMachineCondition{Type: kubevirtv1.VirtualMachineReady, Status: corev1.ConditionFalse}
	if vmi == nil {
		c.Reason, c.Message = "VMINotExists", "VMI does not exist"
		return c
	}
	from := machine.Condition(vmi, kubevirtv1.VirtualMachineInstanceReady)
	if from == nil {
		c.Reason, c.Message = "VMIConditionMissing", "VMI is missing the Ready condition"
		return c
	}
	c.Status, c.Reason, c.Message = from.Status, from.Reason, from.Message
	return c
}

// restartRequired reports whether the machine and its running instance differ
// in fields that take effect only at a start. A description that cannot be
// completed now, because something that it names is missing, counts as no
// difference.
func (c *Controller) restartRequired(ctx context.Context, vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) bool {
	if vmi == nil || vmi.IsFinal() || vmi.DeletionTimestamp != nil {
		return false
	}
	made := vmi.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation]
	if made == "" || made == strconv.FormatInt(vm.Generation, 10) {
		return false
	}
	want, err := c.describeInstance(ctx, vm, time.Time{})
	if err != nil {
		return false
	}
	machine.KeepSettings(&vm.Spec.Template.Spec, &want.Spec, &vmi.Spec)
	return !c.cfg.Defaults().SameAtStart(want, vmi)
}

// printableStatus sums up the machine's state in one word. The states are
// checked from the most final to the least final, and the first that applies is
// returned.
func printableStatus(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, volumes volumeState) kubevirtv1.VirtualMachinePrintableStatus {
	if vm.DeletionTimestamp != nil {
		return kubevirtv1.VirtualMachineStatusTerminating
	}
	if vmi != nil && !vmi.IsFinal() {
		if vmi.DeletionTimestamp != nil || asksToStop(vm, vmi.UID) {
			return kubevirtv1.VirtualMachineStatusStopping
		}
		if machine.IsOutOfReach(vmi) {
			return kubevirtv1.VirtualMachineStatusUnknown
		}
		if s := runningStatus(vmi); s != "" {
			return s
		}
	}
	wanted := wantsInstance(vm, vmi)
	switch {
	case vmi != nil && !vmi.IsFinal() && blockedStatus(vmi) != "":
		return blockedStatus(vmi)
	case wanted && volumes.failed:
		return kubevirtv1.VirtualMachineStatusDataVolumeError
	case volumes.provisioning && (wanted || vmi == nil):
		return kubevirtv1.VirtualMachineStatusProvisioning
	case vmi != nil && !vmi.IsFinal() && volumes.waiting && !scheduled(vmi):
		return kubevirtv1.VirtualMachineStatusWaitingForVolumeBinding
	case vmi != nil && (vmi.IsUnprocessed() || vmi.IsScheduling() || vmi.IsScheduled()):
		return kubevirtv1.VirtualMachineStatusStarting
	case vm.Status.StartFailure != nil && vm.Status.StartFailure.ConsecutiveFailCount > 0 && restartsByItself(vm):
		return kubevirtv1.VirtualMachineStatusCrashLoopBackOff
	case vmi == nil && wanted:
		return kubevirtv1.VirtualMachineStatusStarting
	case vmi == nil, vmi.IsFinal():
		return kubevirtv1.VirtualMachineStatusStopped
	}
	return kubevirtv1.VirtualMachineStatusUnknown
}

func scheduled(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return vmi.IsScheduled() || vmi.IsRunning()
}

// runningStatus returns the printable status of a machine whose instance runs.
func runningStatus(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachinePrintableStatus {
	switch {
	case vmi.IsUnknown():
		return kubevirtv1.VirtualMachineStatusUnknown
	case !vmi.IsRunning():
		return ""
	case migrating(vmi):
		return kubevirtv1.VirtualMachineStatusMigrating
	case machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused):
		return kubevirtv1.VirtualMachineStatusPaused
	}
	return kubevirtv1.VirtualMachineStatusRunning
}

func migrating(vmi *kubevirtv1.VirtualMachineInstance) bool {
	m := vmi.Status.MigrationState
	return m != nil && m.StartTimestamp != nil && m.EndTimestamp == nil && !m.Completed && !m.Failed
}

// blockedStatus returns the printable status that says why an instance does not
// start.
func blockedStatus(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachinePrintableStatus {
	if c := machine.Condition(vmi, podScheduled); c != nil && c.Status == corev1.ConditionFalse && c.Reason == corev1.PodReasonUnschedulable {
		return kubevirtv1.VirtualMachineStatusUnschedulable
	}
	c := machine.Condition(vmi, kubevirtv1.VirtualMachineInstanceSynchronized)
	if c == nil || c.Status != corev1.ConditionFalse {
		return ""
	}
	switch c.Reason {
	case reasonPVCNotFound:
		return kubevirtv1.VirtualMachineStatusPvcNotFound
	case reasonErrImagePull:
		return kubevirtv1.VirtualMachineStatusErrImagePull
	case reasonImagePullBackOff:
		return kubevirtv1.VirtualMachineStatusImagePullBackOff
	}
	return ""
}

// wantsInstance reports whether the machine is on its way up.
func wantsInstance(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance) bool {
	if vmi != nil {
		return !vmi.IsFinal() && vmi.DeletionTimestamp == nil
	}
	strategy, err := vm.RunStrategy()
	if err != nil {
		return false
	}
	switch strategy {
	case kubevirtv1.RunStrategyAlways, kubevirtv1.RunStrategyOnce:
		return true
	case kubevirtv1.RunStrategyRerunOnFailure:
		return asksToStart(vm) || vm.Status.RunStrategy != strategy
	}
	return asksToStart(vm)
}
