package executor

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// reasonNotRunning is the reason of condition Ready while the guest's CPUs do not run.
const reasonNotRunning = kubevirtv1.GuestNotRunningReason

// recordTPMInterval is the time until the next attempt to record that a TPM has run.
const recordTPMInterval = time.Minute

// report writes the status of an instance whose guest exists. It writes nothing when
// nothing changed. The events of a start, warnings among them, go in the same
// transaction, so that they cost no write of their own.
func (e *Executor) report(ctx context.Context, r *run) error {
	vmi := r.instance
	updated := vmi.DeepCopy()
	machine.SetPhase(updated, kubevirtv1.Running, r.now)
	// Condition Synchronized stays only while the guest cannot be brought in line with
	// the instance.
	machine.DropConditions(updated, kubevirtv1.VirtualMachineInstanceSynchronized)
	e.describeMachine(ctx, updated, r)
	wait := e.describeState(updated, r)
	updated.Status.Interfaces = e.Network.Interfaces(vmi)
	wait = sooner(wait, e.watchFreeze(ctx, r))
	updated.Status.FSFreezeStatus = shownFreeze(r.domain)
	r.result.RequeueAfter = sooner(sooner(wait, e.recordTPM(ctx, r)), e.describeAgent(vmi, updated, r))
	tx := e.holding(r)
	tx.Update(vmi, updated)
	if tx.Empty() {
		return nil
	}
	for _, warning := range r.warnings {
		e.Events.AddTo(tx, vmi, corev1.EventTypeNormal, "Approximated", warning)
	}
	if vmi.Status.Phase != kubevirtv1.Running {
		e.Events.AddTo(tx, vmi, corev1.EventTypeNormal, "Started", "VirtualMachineInstance started.")
	}
	if err := e.commit(ctx, tx); err != nil {
		return fmt.Errorf("report %s: %w", r.ref, err)
	}
	return nil
}

// recordTPM records that the guest's TPM has run, if it keeps its state. That happens at
// every report and not at the start, so that an agent that died right after the start
// makes up for it. A failure does not hide the guest's status: recordTPM returns the time
// until the next attempt, zero for never.
func (e *Executor) recordTPM(ctx context.Context, r *run) time.Duration {
	if !r.domain.Owner.KeepTPM || !r.active() {
		return 0
	}
	if err := e.Firmware.TPMStarted(ctx, domain.Machine(r.instance)); err != nil {
		e.Logger.Warn("a loss of the state of a guest's TPM would go unnoticed", "instance", r.ref.String(), "err", err)
		return recordTPMInterval
	}
	return 0
}

// sooner returns the shorter of two times to wait, where zero means for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// describeState sets the conditions Ready and Paused. A pause by a user, and its end, is
// shown at once. Other changes, such as going to sleep or I/O errors that come and go,
// are limited by flips. It returns the time until the next look; zero for never.
func (e *Executor) describeState(updated *kubevirtv1.VirtualMachineInstance, r *run) time.Duration {
	// A guest that is being started is not paused, though its CPUs do not run yet.
	paused := r.domain.State == hypervisor.StatePaused && r.domain.Reason != hypervisor.ReasonStarting
	wasPaused := machine.HasCondition(r.instance, kubevirtv1.VirtualMachineInstancePaused)
	if r.instance.Status.Phase == kubevirtv1.Running && paused != wasPaused && !byUser(r, paused) {
		show, wait := e.flips.limitChange(r.ref.UID, kubevirtv1.VirtualMachineInstancePaused, wasPaused, paused)
		if show != paused {
			return wait
		}
	}
	running, wait := r.domain.State == hypervisor.StateRunning, time.Duration(0)
	shown := machine.Condition(r.instance, kubevirtv1.VirtualMachineInstanceReady)
	if shown != nil && !paused && !wasPaused && r.instance.Status.Phase == kubevirtv1.Running {
		running, wait = e.flips.limitChange(r.ref.UID, kubevirtv1.VirtualMachineInstanceReady, shown.Status == corev1.ConditionTrue, running)
	}
	reason := reasonNotRunning
	if running {
		reason = ""
	}
	// While a change has to wait, the condition stays as it is, with the reason that it has.
	if wait == 0 {
		machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, running, reason, ""), r.now)
	}
	if !paused {
		machine.DropConditions(updated, kubevirtv1.VirtualMachineInstancePaused)
		return wait
	}
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstancePaused, true, pausedReason(r.domain.Reason),
		"the guest's virtual CPUs are stopped"), r.now)
	return wait
}

// byUser reports whether a user has paused the guest, or has ended such a pause.
func byUser(r *run, paused bool) bool {
	if paused {
		return pausedReason(r.domain.Reason) == reasonPausedByUser
	}
	shown := machine.Condition(r.instance, kubevirtv1.VirtualMachineInstancePaused)
	return shown != nil && shown.Reason == reasonPausedByUser
}

// reasonPausedByUser is the reason of condition Paused when no other is known.
const reasonPausedByUser = "PausedByUser"

// pausedReason returns the reason of condition Paused, by KubeVirt's names where
// KubeVirt has one.
func pausedReason(reason hypervisor.Reason) string {
	switch reason {
	case hypervisor.ReasonIOError:
		return "PausedIOError"
	case hypervisor.ReasonMigration:
		return "PausedByMigrationMonitor"
	case hypervisor.ReasonWatchdog:
		return "PausedWatchdog"
	case hypervisor.ReasonPostcopyFailed:
		return "PausedPostcopyFailed"
	}
	return reasonPausedByUser
}
