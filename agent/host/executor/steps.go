package executor

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

// nicsByName are network cards by the name of their interface.
type nicsByName = map[string]domain.NIC

func (e *Executor) dropPreparation(ctx context.Context, r *run) error {
	if err := e.preparations.endPreparation(ctx, r.ref.UID); err != nil {
		return fmt.Errorf("%s: %w", r.ref, err)
	}
	return nil
}

// connectNetwork makes the network cards. If it fails, the start has failed.
func (e *Executor) connectNetwork(ctx context.Context, r *run) (err error) {
	if r.nics, err = e.Network.Connect(ctx, r.instance); err != nil {
		return e.startFailed(ctx, r, fmt.Errorf("connect networks: %w", err))
	}
	r.connected = true
	return nil
}

// defineStart starts the guest from what was prepared.
func (e *Executor) defineStart(ctx context.Context, r *run) error {
	work := e.preparations.of(r.ref.UID)
	if work == nil || !work.finished() {
		return errReplan
	}
	select {
	case e.starting <- struct{}{}:
		defer func() { <-e.starting }()
	default:
		return errReplan // others were faster
	}
	if e.MayStart != nil {
		if err := e.MayStart(); err != nil {
			return e.startFailed(ctx, r, err)
		}
	}
	xml, err := e.definition(ctx, r, work)
	if err != nil {
		return e.startFailed(ctx, r, err)
	}
	paused := r.instance.Spec.StartStrategy != nil && *r.instance.Spec.StartStrategy == kubevirtv1.StartStrategyPaused
	started, err := e.Hypervisor.Start(ctx, xml, hypervisor.StartOptions{
		Paused: paused, KeepNVRAM: machine.KeepsVariables(&r.instance.Spec), KeepTPM: machine.KeepsTPM(&r.instance.Spec),
	})
	if err != nil {
		return e.startFailed(ctx, r, fmt.Errorf("start the guest: %w", err))
	}
	r.domain, r.found = started, true
	r.warnings = append(r.warnings, started.Warnings...)
	e.failures.dropFailure(r.ref.UID)
	e.preparations.removeEntry(r.ref.UID)
	work.releaseVolumes()
	return nil
}

// definition converts the instance to a domain.
func (e *Executor) definition(ctx context.Context, r *run, work *preparation) (string, error) {
	serialLog, err := e.logs.makeSerialLog(keyOf(r.ref))
	if err != nil {
		return "", err
	}
	host, err := e.Machine()
	if err != nil {
		return "", err
	}
	user, err := e.Volumes.User(ctx, r.ref)
	if err != nil {
		return "", err
	}
	agent, err := e.Volumes.AgentSocket(ctx, r.ref)
	if err != nil {
		return "", err
	}
	variables := e.Firmware.Variables(domain.Machine(r.instance), machine.SecureBoot(&r.instance.Spec))
	definition, warnings, err := domain.Convert(domain.Input{
		VMI: r.instance, Host: e.Host, Epoch: work.epoch, Disks: work.disks, NICs: r.nics, Machine: host,
		CPUMilli: r.claim.Resources.CPUMilli, User: &user,
		Paths: domain.Paths{SerialLog: serialLog, AgentSocket: agent, Variables: variables},
	})
	if err != nil {
		return "", err
	}
	xml, err := definition.Marshal()
	if err != nil {
		return "", fmt.Errorf("encode the domain: %w", err)
	}
	r.warnings = warnings
	return xml, nil
}

// startFailed records a failure to start, so that it is reported and the start is tried
// again with back-off. A start that was interrupted does not count as failed.
func (e *Executor) startFailed(ctx context.Context, r *run, err error) error {
	if ctx.Err() != nil || errors.Is(err, hypervisor.ErrUnavailable) {
		return err
	}
	if dropErr := e.dropPreparation(ctx, r); dropErr != nil {
		return dropErr
	}
	err = e.nameHolders(ctx, r.instance, err)
	e.failures.addFailure(r.ref.UID, err, r.now)
	r.failed = err
	e.Logger.Warn("a guest did not start", "instance", r.ref.String(), "err", err)
	return errReplan
}

// reportFailure writes why the guest does not start yet.
func (e *Executor) reportFailure(ctx context.Context, r *run) error {
	updated, f := r.instance.DeepCopy(), r.failure
	for _, kind := range failureConditions {
		machine.SetCondition(updated, machine.NewCondition(kind, false, f.reason, f.message), r.now)
	}
	tx := e.holding(r)
	tx.UpdateStatus(r.instance, updated)
	if tx.Empty() {
		return nil
	}
	e.Events.AddTo(tx, r.instance, corev1.EventTypeWarning, f.reason, f.message)
	if err := e.commit(ctx, tx); err != nil {
		e.Logger.Warn("a failure could not be reported", "instance", r.ref.String(), "err", err)
		if r.failed == nil {
			// Without an error the instance might not be reconciled again: its pause may
			// be over.
			return fmt.Errorf("report why %s does not start: %w", r.ref, err)
		}
		// The caller needs r.failed more than this error; the next reconciliation writes
		// the failure.
		return nil
	}
	e.failures.tellFailure(r.ref.UID, r.now)
	return nil
}

// holding begins a transaction that fails if the claim has changed since it was read:
// a host that has lost the claim must not write the instance.
func (e *Executor) holding(r *run) *objects.Tx {
	tx := &objects.Tx{Clock: e.Clock}
	claims.RequireHeld(tx, r.claim)
	return tx
}

func (e *Executor) recordEnd(ctx context.Context, r *run, how end) error {
	text, err := formatEnd(how)
	if err != nil {
		return err
	}
	return e.Hypervisor.SetRecord(ctx, r.ref, recordEnd, text)
}

// commitEnd writes in one transaction that the instance ended, and gives up its claim,
// its finalizer and its volumes.
func (e *Executor) commitEnd(ctx context.Context, r *run, how end) error {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	vmi := r.instance
	ended := vmi.DeepCopy()
	if !vmi.IsFinal() {
		machine.SetPhase(ended, how.Phase, r.now)
		machine.SetCondition(ended, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, false, reasonNotRunning, how.Message), r.now)
		machine.DropConditions(ended, kubevirtv1.VirtualMachineInstanceAgentConnected,
			kubevirtv1.VirtualMachineInstanceUnsupportedAgent, kubevirtv1.VirtualMachineInstancePaused)
		ended.Status.Interfaces = nil
	}
	objects.RemoveFinalizer(ended, kubevirtv1.VirtualMachineInstanceFinalizer)
	tx := e.holding(r)
	tx.Update(vmi, ended)
	claims.Release(tx, r.claim)
	if err := e.Volumes.Detach(ctx, tx, vmi); err != nil {
		return fmt.Errorf("detach the volumes of %s: %w", r.ref, err)
	}
	if !vmi.IsFinal() {
		if how.PowerCut {
			e.Events.AddTo(tx, vmi, corev1.EventTypeWarning, "GracePeriodEnded", how.Message)
		}
		if how.WithHost {
			e.Events.AddTo(tx, vmi, corev1.EventTypeNormal, "HostShutDown", how.Message)
		} else {
			e.Events.AddTo(tx, vmi, eventType(how.Phase), "Stopped", how.Message)
		}
	}
	if err := e.commit(ctx, tx); err != nil {
		return fmt.Errorf("report the end of %s: %w", r.ref, err)
	}
	return nil
}

func eventType(phase kubevirtv1.VirtualMachineInstancePhase) string {
	if phase == kubevirtv1.Failed {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}

// forgetInstance drops what this process keeps in memory about an instance of which
// nothing is left on this host.
func (e *Executor) forgetInstance(ref hypervisor.Ref) {
	e.agents.dropGuest(ref.UID)
	e.flips.dropGuest(ref.UID)
	e.failures.dropFailure(ref.UID)
	e.shutdowns.dropGuest(ref.UID)
	e.limits.dropGuest(ref.UID)
	e.thaws.dropGuest(ref.UID)
	e.traces.removeInstance(ref)
}

func uidOf(ref hypervisor.Ref) types.UID { return types.UID(ref.UID) }
