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

// instances acts on running instances through their hosts.
type instances struct {
	objects Objects
	hosts   guests.Instances
}

// running returns the instance if its guest runs.
func (i instances) running(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstance, error) {
	vmi, err := i.objects.Instance(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	if vmi.Status.Phase != kubevirtv1.Running {
		return nil, conflict(vmiResource, name, vmiNotRunning)
	}
	return vmi, nil
}

func (i instances) pause(ctx context.Context, namespace, name string, opts *kubevirtv1.PauseOptions) error {
	vmi, err := i.running(ctx, namespace, name)
	if err != nil {
		return err
	}
	if p := vmi.Spec.LivenessProbe; p != nil && p.GuestAgentPing == nil {
		return apierrors.NewForbidden(vmiResource, name, errors.New("Pausing VMIs with a non-GuestAgentPing LivenessProbe is not supported"))
	}
	if machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused) {
		return conflict(vmiResource, name, "VMI is already paused")
	}
	if isDryRun(opts.DryRun) {
		return nil
	}
	return hostError(name, i.hosts.Pause(ctx, namespace, name))
}

func (i instances) unpause(ctx context.Context, namespace, name string, opts *kubevirtv1.UnpauseOptions) error {
	vm, err := i.objects.VirtualMachine(ctx, namespace, name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err == nil && vm.Status.SnapshotInProgress != nil {
		return conflict(vmResource, name, snapshotInProgress)
	}
	vmi, err := i.running(ctx, namespace, name)
	if err != nil {
		return err
	}
	if !machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstancePaused) {
		return conflict(vmiResource, name, vmiNotPaused)
	}
	if isDryRun(opts.DryRun) {
		return nil
	}
	return hostError(name, i.hosts.Unpause(ctx, namespace, name))
}

// withAgent returns the instance if its guest agent is connected.
func (i instances) withAgent(ctx context.Context, namespace, name string) error {
	vmi, err := i.running(ctx, namespace, name)
	if err != nil {
		return err
	}
	if !machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstanceAgentConnected) {
		return conflict(vmiResource, name, agentNotConnected)
	}
	return nil
}

func (i instances) osInfo(ctx context.Context, namespace, name string) (any, error) {
	if err := i.withAgent(ctx, namespace, name); err != nil {
		return nil, err
	}
	info, err := i.hosts.GuestOSInfo(ctx, namespace, name)
	return info, hostError(name, err)
}

func (i instances) users(ctx context.Context, namespace, name string) (any, error) {
	if err := i.withAgent(ctx, namespace, name); err != nil {
		return nil, err
	}
	users, err := i.hosts.Users(ctx, namespace, name)
	return users, hostError(name, err)
}

func (i instances) filesystems(ctx context.Context, namespace, name string) (any, error) {
	if err := i.withAgent(ctx, namespace, name); err != nil {
		return nil, err
	}
	fs, err := i.hosts.Filesystems(ctx, namespace, name)
	return fs, hostError(name, err)
}

// streamable says why a stream of kind cannot be opened, or nil.
func (i instances) streamable(ctx context.Context, namespace, name string, kind guests.StreamKind) error {
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
		return conflict(vmiResource, name, "VMI is in failed status")
	case !vmi.IsRunning():
		return apierrors.NewBadRequest(vmiNotRunning)
	}
	return nil
}

func isFalse(b *bool) bool { return b != nil && !*b }

func isDryRun(dryRun []string) bool { return slices.Contains(dryRun, metav1.DryRunAll) }
