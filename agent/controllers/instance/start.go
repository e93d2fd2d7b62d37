package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/controller"
	"virtmesh/agent/domainxml"
	"virtmesh/agent/hypervisor"
	"virtmesh/agent/objects"
)

// start prepares the instance's volumes and network and starts its guest. What
// fails is told in the condition Synchronized and an event, and tried again
// with back-off; what can never work ends the instance.
func (e *Executor) start(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (controller.Result, error) {
	if err := e.removeOrphans(ctx, objects.KeyOf(vmi), string(vmi.UID)); err != nil {
		return controller.Result{}, err
	}
	epoch, err := e.Claims.Epoch(ctx, vmi)
	if err != nil {
		return controller.Result{}, fmt.Errorf("read the claim of %s: %w", objects.KeyOf(vmi), err)
	}
	domain, warnings, err := e.startDomain(ctx, vmi, epoch)
	if err == nil {
		return e.report(ctx, vmi, domain, warnings...)
	}
	if ctx.Err() != nil {
		return controller.Result{}, err
	}
	reason, final := classify(err)
	e.Events.Event(vmi, "Warning", reason, err.Error())
	if final {
		return controller.Result{}, e.finish(ctx, vmi, kubevirtv1.Failed, err.Error())
	}
	if reportErr := e.reportFailure(ctx, vmi, reason, err); reportErr != nil {
		e.Logger.Warn("a failure could not be reported", "instance", objects.KeyOf(vmi).String(), "err", reportErr)
	}
	return controller.Result{}, err
}

// Reasons of conditions and events, as KubeVirt names them where it has one.
const (
	reasonFailedCreate = "FailedCreate"
	reasonInvalid      = "InvalidConfiguration"
)

// classify names a failure and tells whether trying again can never help.
func classify(err error) (reason string, final bool) {
	var volume *VolumeError
	if errors.As(err, &volume) {
		return volume.Reason, false
	}
	var field *domainxml.FieldError
	if errors.As(err, &field) || errors.Is(err, hypervisor.ErrInvalid) {
		return reasonInvalid, true
	}
	return reasonFailedCreate, false
}

// startDomain also returns what this host can only approximate.
func (e *Executor) startDomain(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, epoch uint64) (hypervisor.Domain, []string, error) {
	disks, release, err := e.Volumes.Prepare(ctx, vmi)
	if err != nil {
		return hypervisor.Domain{}, nil, err
	}
	defer release()
	nics, err := e.Network.Connect(ctx, vmi)
	if err != nil {
		return hypervisor.Domain{}, nil, fmt.Errorf("connect networks: %w", err)
	}
	serialLog, err := e.serialLog(vmi)
	if err != nil {
		return hypervisor.Domain{}, nil, err
	}
	definition, warnings, err := domainxml.Convert(domainxml.Input{
		VMI: vmi, Host: e.Host, Epoch: epoch, Disks: disks, NICs: nics, Machine: e.Machine,
		Paths: domainxml.Paths{SerialLog: serialLog},
	})
	if err != nil {
		return hypervisor.Domain{}, nil, err
	}
	xml, err := definition.Marshal()
	if err != nil {
		return hypervisor.Domain{}, nil, fmt.Errorf("encode the domain: %w", err)
	}
	paused := vmi.Spec.StartStrategy != nil && *vmi.Spec.StartStrategy == kubevirtv1.StartStrategyPaused
	domain, err := e.Hypervisor.Start(ctx, xml, hypervisor.StartOptions{Paused: paused})
	if err != nil {
		return hypervisor.Domain{}, nil, fmt.Errorf("start the guest: %w", err)
	}
	return domain, warnings, nil
}

// serialLog returns the file that keeps what the guest prints on its console.
func (e *Executor) serialLog(vmi *kubevirtv1.VirtualMachineInstance) (string, error) {
	dir := filepath.Join(e.LogDir, vmi.Namespace)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return "", fmt.Errorf("make the serial log's directory: %w", err)
	}
	return filepath.Join(dir, vmi.Name+"-serial.log"), nil
}
