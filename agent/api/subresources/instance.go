package subresources

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/port/guests"
	machine "virtmesh/agent/vmi"
)

// instances performs actions on running instances through their hosts.
type instances struct {
	objects Objects
	hosts   guests.Instances
}

// runningInstance returns the instance, or an error if its guest does not run.
func (i instances) runningInstance(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	vmi, err := i.objects.Instance(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if vmi.Status.Phase != kubevirtv1.Running {
		return nil, notRunning(name)
	}
	return vmi, nil
}

func (i instances) pauseGuest(ctx context.Context, namespace, name string, opts *kubevirtv1.PauseOptions) error {
	vmi, err := i.runningInstance(ctx, namespace, name)
	if err != nil {
		return err
	}
	if p := vmi.Spec.LivenessProbe; p != nil && p.GuestAgentPing == nil {
		return apierrors.NewForbidden(vmiResource, name, errors.New("Pausing VMIs with a non-GuestAgentPing LivenessProbe is not supported"))
	}
	if machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused) {
		return conflictError(vmiResource, name, "VMI is already paused")
	}
	if isDryRun(opts.DryRun) {
		return nil
	}
	return hostError(name, i.hosts.Pause(ctx, namespace, name))
}

func (i instances) unpauseGuest(ctx context.Context, namespace, name string, opts *kubevirtv1.UnpauseOptions) error {
	vm, err := i.objects.VirtualMachine(ctx, namespace, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err == nil && vm.Status.SnapshotInProgress != nil {
		return conflictError(vmResource, name, snapshotInProgress)
	}
	vmi, err := i.runningInstance(ctx, namespace, name)
	if err != nil {
		return err
	}
	if !machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused) {
		return conflictError(vmiResource, name, vmiNotPaused)
	}
	if isDryRun(opts.DryRun) {
		return nil
	}
	return hostError(name, i.hosts.Unpause(ctx, namespace, name))
}

// checkAgent returns an error unless the guest agent of the instance is connected.
func (i instances) checkAgent(ctx context.Context, namespace, name string) error {
	vmi, err := i.runningInstance(ctx, namespace, name)
	if err != nil {
		return err
	}
	if !machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstanceAgentConnected) {
		return noAgent(name)
	}
	return nil
}

func (i instances) guestOSInfo(ctx context.Context, namespace, name string) (any, error) {
	if err := i.checkAgent(ctx, namespace, name); err != nil {
		return nil, err
	}
	info, err := i.hosts.GuestOSInfo(ctx, namespace, name)
	return info, hostError(name, err)
}

func (i instances) guestUsers(ctx context.Context, namespace, name string) (any, error) {
	if err := i.checkAgent(ctx, namespace, name); err != nil {
		return nil, err
	}
	users, err := i.hosts.Users(ctx, namespace, name)
	return users, hostError(name, err)
}

func (i instances) guestFilesystems(ctx context.Context, namespace, name string) (any, error) {
	if err := i.checkAgent(ctx, namespace, name); err != nil {
		return nil, err
	}
	fs, err := i.hosts.Filesystems(ctx, namespace, name)
	return fs, hostError(name, err)
}

func (i instances) rebootGuest(ctx context.Context, namespace, name string, _ *struct{}) error {
	vmi, err := i.runningInstance(ctx, namespace, name)
	if err != nil {
		return err
	}
	features := vmi.Spec.Domain.Features
	switch {
	case machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused):
		return conflictError(vmiResource, name, vmiPaused)
	case !machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstanceAgentConnected) && features != nil && isFalse(features.ACPI.Enabled):
		return conflictError(vmiResource, name, "VMI neither have the agent connected nor the ACPI feature enabled")
	}
	return hostError(name, i.hosts.Reboot(ctx, namespace, name))
}

// resetGuest is for guests whose CPUs do not run, too.
func (i instances) resetGuest(ctx context.Context, namespace, name string, _ *struct{}) error {
	if _, err := i.runningInstance(ctx, namespace, name); err != nil {
		return err
	}
	return hostError(name, i.hosts.Reset(ctx, namespace, name))
}

func (i instances) freezeGuest(ctx context.Context, namespace, name string, opts *kubevirtv1.FreezeUnfreezeTimeout) error {
	vmi, err := i.runningInstance(ctx, namespace, name)
	switch {
	case err != nil:
		return err
	case opts.UnfreezeTimeout == nil:
		return apierrors.NewBadRequest("Unfreeze timeout in freeze request is not set")
	case opts.UnfreezeTimeout.Duration < 0:
		return apierrors.NewBadRequest("unfreezeTimeout must not be negative")
	case machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused):
		return conflictError(vmiResource, name, vmiPaused)
	case !machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstanceAgentConnected):
		return noAgent(name)
	}
	return hostError(name, i.hosts.Freeze(ctx, namespace, name, opts.UnfreezeTimeout.Duration))
}

func (i instances) unfreezeGuest(ctx context.Context, namespace, name string, _ *struct{}) error {
	if _, err := i.runningInstance(ctx, namespace, name); err != nil {
		return err
	}
	return hostError(name, i.hosts.Unfreeze(ctx, namespace, name))
}

func (i instances) storedInstance(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	return i.objects.Instance(ctx, namespace, name)
}

// instanceOfVM returns the instance of a virtual machine.
func (i instances) instanceOfVM(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	vm, err := i.objects.VirtualMachine(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if !vm.Status.Created {
		return nil, conflictError(vmResource, name, "VMI is not started")
	}
	vmi, err := i.objects.Instance(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if !metav1.IsControlledBy(vmi, vm) {
		return nil, conflictError(vmResource, name, "the instance of this name is not its own")
	}
	return vmi, nil
}

func (i instances) cancelVMEvacuation(ctx context.Context, namespace, name string, opts *kubevirtv1.EvacuateCancelOptions) error {
	if _, err := i.instanceOfVM(ctx, namespace, name); err != nil {
		return err
	}
	return i.cancelEvacuation(ctx, namespace, name, opts)
}

// cancelEvacuation ends the evacuation of the instance from the host that the request names.
// Without an evacuation there is nothing to do.
func (i instances) cancelEvacuation(ctx context.Context, namespace, name string, opts *kubevirtv1.EvacuateCancelOptions) error {
	vmi, err := i.objects.Instance(ctx, namespace, name)
	if err != nil || vmi.Status.EvacuationNodeName == "" {
		return err
	}
	return i.objects.ChangeInstance(ctx, namespace, name, opts.DryRun, func(now *kubevirtv1.VirtualMachineInstance) error {
		switch {
		case now.UID != vmi.UID || now.Status.EvacuationNodeName == "":
			return nil // it has ended
		case now.Status.EvacuationNodeName != opts.EvacuationNodeName:
			return conflictError(vmiResource, name, fmt.Sprintf("it is being evacuated from %q, not from %q", now.Status.EvacuationNodeName, opts.EvacuationNodeName))
		}
		now.Status.EvacuationNodeName = ""
		return nil
	})
}

func isFalse(b *bool) bool { return b != nil && !*b }

func isDryRun(dryRun []string) bool { return slices.Contains(dryRun, metav1.DryRunAll) }
