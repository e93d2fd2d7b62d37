package subresources

import (
	"context"
	"errors"
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

// checkStream returns an error if a stream of kind cannot be opened.
func (i instances) checkStream(ctx context.Context, namespace, name string, kind guests.StreamKind) error {
	vmi, err := i.objects.Instance(ctx, namespace, name)
	if err != nil {
		return err
	}
	dev := vmi.Spec.Domain.Devices
	switch {
	case kind == guests.Console && isFalse(dev.AutoattachSerialConsole):
		return apierrors.NewBadRequest("No serial consoles are present.")
	case kind == guests.VNC && isFalse(dev.AutoattachGraphicsDevice):
		return apierrors.NewBadRequest("No graphics devices are present.")
	case kind == guests.Console && vmi.Status.Phase == kubevirtv1.Failed:
		return conflictError(vmiResource, name, "VMI is in failed status")
	case !vmi.IsRunning():
		return apierrors.NewBadRequest(vmiNotRunning)
	}
	return nil
}

func isFalse(b *bool) bool { return b != nil && !*b }

func isDryRun(dryRun []string) bool { return slices.Contains(dryRun, metav1.DryRunAll) }
