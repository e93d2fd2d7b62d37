package executor

import (
	"context"
	"errors"
	"fmt"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// start prepares the instance's volumes and network and starts its guest. It
// returns while the volumes are being prepared, and goes on when it is called
// again. What fails is told in the condition Synchronized and an event, and
// tried again with back-off; what can never work ends the instance.
func (e *Executor) start(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (stewards.Result, error) {
	work := e.preparations.get(string(vmi.UID))
	if work == nil {
		return stewards.Result{Pending: true}, e.prepare(ctx, vmi)
	}
	if !work.finished() {
		return stewards.Result{Pending: true}, nil
	}
	e.preparations.take(string(vmi.UID))
	defer work.free()
	domain, warnings, err := e.startDomain(ctx, vmi, work)
	switch {
	case err == nil:
		return e.report(ctx, vmi, domain, warnings...)
	case ctx.Err() != nil, errors.Is(err, errUnconfirmed):
		return stewards.Result{}, err
	case errors.Is(err, errNotOurs):
		return stewards.Result{}, e.abandon(ctx, vmi)
	}
	return stewards.Result{}, e.startFailed(ctx, vmi, err)
}

// prepare begins with the volumes of an instance that has the right to run here.
func (e *Executor) prepare(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) error {
	if err := e.removeOrphans(ctx, objects.KeyOf(vmi), string(vmi.UID)); err != nil {
		return err
	}
	epoch, err := e.epoch(ctx, vmi)
	if err != nil {
		return err
	}
	e.traces.add(refOf(vmi))
	return e.preparations.begin(vmi, epoch)
}

// startFailed tells why the guest did not start.
func (e *Executor) startFailed(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, err error) error {
	reason, final := classify(err)
	e.Events.Event(vmi, "Warning", reason, err.Error())
	if final {
		return e.finish(ctx, vmi, kubevirtv1.Failed, err.Error())
	}
	if reportErr := e.reportFailure(ctx, vmi, reason, err); reportErr != nil {
		e.Logger.Warn("a failure could not be reported", "instance", objects.KeyOf(vmi).String(), "err", reportErr)
	}
	return err
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
	var field *domain.FieldError
	if errors.As(err, &field) || errors.Is(err, hypervisor.ErrInvalid) {
		return reasonInvalid, true
	}
	return reasonFailedCreate, false
}

// startDomain also returns what this host can only approximate.
func (e *Executor) startDomain(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, work *preparation) (hypervisor.Domain, []string, error) {
	if work.err != nil {
		return hypervisor.Domain{}, nil, work.err
	}
	nics, err := e.Network.Connect(ctx, vmi)
	if err != nil {
		return hypervisor.Domain{}, nil, fmt.Errorf("connect networks: %w", err)
	}
	serialLog, err := e.logs.open(objects.KeyOf(vmi))
	if err != nil {
		return hypervisor.Domain{}, nil, err
	}
	definition, warnings, err := domain.Convert(domain.Input{
		VMI: vmi, Host: e.Host, Epoch: work.epoch, Disks: work.disks, NICs: nics, Machine: e.Machine,
		Paths: domain.Paths{SerialLog: serialLog},
	})
	if err != nil {
		return hypervisor.Domain{}, nil, err
	}
	xml, err := definition.Marshal()
	if err != nil {
		return hypervisor.Domain{}, nil, fmt.Errorf("encode the domain: %w", err)
	}
	// Last of all: a pull may have taken an hour.
	if err := e.confirm(ctx, vmi, work.epoch); err != nil {
		return hypervisor.Domain{}, nil, err
	}
	paused := vmi.Spec.StartStrategy != nil && *vmi.Spec.StartStrategy == kubevirtv1.StartStrategyPaused
	domain, err := e.Hypervisor.Start(ctx, xml, hypervisor.StartOptions{Paused: paused})
	if err != nil {
		return hypervisor.Domain{}, nil, fmt.Errorf("start the guest: %w", err)
	}
	return domain, warnings, nil
}
