package instance

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/controller"
	"virtmesh/agent/hypervisor"
	"virtmesh/agent/objects"
)

// report publishes the status of an instance whose guest exists. Nothing is
// written when nothing changed. The events of a start go with it, so that they
// cost no write of their own; warnings are among them.
func (e *Executor) report(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, domain hypervisor.Domain, warnings ...string) (controller.Result, error) {
	updated := vmi.DeepCopy()
	setPhase(updated, kubevirtv1.Running)
	e.describeMachine(updated)
	setCondition(updated, kubevirtv1.VirtualMachineInstanceSynchronized, true, "", "")
	setCondition(updated, kubevirtv1.VirtualMachineInstanceReady, domain.State == hypervisor.StateRunning, notRunningReason(domain), "")
	setCondition(updated, kubevirtv1.VirtualMachineInstanceIsMigratable, false, "MigrationNotAvailable", "live migration is not available in this version")
	if domain.State == hypervisor.StatePaused {
		setCondition(updated, kubevirtv1.VirtualMachineInstancePaused, true, pausedReason(domain.Reason), "the guest's virtual CPUs are stopped")
	} else {
		dropConditions(updated, kubevirtv1.VirtualMachineInstancePaused)
	}
	updated.Status.Interfaces = e.Network.Interfaces(vmi)
	result := controller.Result{}
	if domain.AgentConnected {
		setCondition(updated, kubevirtv1.VirtualMachineInstanceAgentConnected, true, "", "")
		e.addGuestInfo(ctx, updated)
		result.RequeueAfter = guestInfoInterval
	} else {
		dropConditions(updated, kubevirtv1.VirtualMachineInstanceAgentConnected)
		updated.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{}
	}
	var tx objects.Tx
	tx.UpdateStatus(vmi, updated)
	if tx.Empty() {
		return result, nil
	}
	for _, warning := range warnings {
		e.Events.AddTo(&tx, vmi, corev1.EventTypeNormal, "Approximated", warning)
	}
	if vmi.Status.Phase != kubevirtv1.Running {
		e.Events.AddTo(&tx, vmi, corev1.EventTypeNormal, "Started", "VirtualMachineInstance started.")
	}
	if _, err := tx.Commit(ctx, e.Store); err != nil {
		return result, fmt.Errorf("report %s: %w", objects.KeyOf(vmi), err)
	}
	return result, nil
}

func notRunningReason(domain hypervisor.Domain) string {
	if domain.State == hypervisor.StateRunning {
		return ""
	}
	return "GuestNotRunning"
}

func pausedReason(reason hypervisor.Reason) string {
	if reason == hypervisor.ReasonIOError {
		return "PausedIOError"
	}
	return "PausedByUser"
}

// reportFailure tells why the guest does not start yet.
func (e *Executor) reportFailure(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, reason string, cause error) error {
	updated := vmi.DeepCopy()
	setCondition(updated, kubevirtv1.VirtualMachineInstanceSynchronized, false, reason, cause.Error())
	setCondition(updated, kubevirtv1.VirtualMachineInstanceReady, false, reason, cause.Error())
	var tx objects.Tx
	tx.UpdateStatus(vmi, updated)
	if tx.Empty() {
		return nil
	}
	if _, err := tx.Commit(ctx, e.Store); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// describeMachine fills in what follows from specification and host.
func (e *Executor) describeMachine(vmi *kubevirtv1.VirtualMachineInstance) {
	status := &vmi.Status
	if vmi.Spec.Domain.Machine != nil {
		status.Machine = &kubevirtv1.Machine{Type: vmi.Spec.Domain.Machine.Type}
	}
	if cpu := vmi.Spec.Domain.CPU; cpu != nil {
		status.CurrentCPUTopology = &kubevirtv1.CPUTopology{Cores: cpu.Cores, Sockets: cpu.Sockets, Threads: cpu.Threads}
	}
	if memory := vmi.Spec.Domain.Memory; memory != nil && memory.Guest != nil {
		status.Memory = &kubevirtv1.MemoryStatus{GuestAtBoot: memory.Guest, GuestCurrent: memory.Guest, GuestRequested: memory.Guest}
	}
	qos := corev1.PodQOSBurstable
	status.QOSClass = &qos
	if status.EvacuationNodeName != "" {
		status.EvacuationNodeName = ""
	}
	if len(status.VolumeStatus) == 0 {
		for _, volume := range vmi.Spec.Volumes {
			status.VolumeStatus = append(status.VolumeStatus, kubevirtv1.VolumeStatus{Name: volume.Name})
		}
	}
}

// addGuestInfo merges what the guest agent says. A guest that does not answer
// keeps its last answer.
func (e *Executor) addGuestInfo(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) {
	record, err := e.guestInfo(ctx, refOf(vmi))
	if err != nil {
		if !errors.Is(err, hypervisor.ErrNoAgent) {
			e.Logger.Debug("the guest agent did not answer", "instance", objects.KeyOf(vmi).String(), "err", err)
		}
		if record.asked.IsZero() {
			return
		}
	}
	os := record.info.OS
	vmi.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{
		Name: os.Name, Version: os.Version, PrettyName: os.PrettyName, VersionID: os.VersionID,
		KernelRelease: os.KernelRelease, KernelVersion: os.KernelVersion, Machine: os.Machine, ID: os.ID,
	}
	for _, nic := range record.info.Interfaces {
		addGuestInterface(vmi, nic)
	}
}

// addGuestInterface joins what host and guest know of one card by its MAC.
func addGuestInterface(vmi *kubevirtv1.VirtualMachineInstance, nic hypervisor.GuestInterface) {
	for i := range vmi.Status.Interfaces {
		known := &vmi.Status.Interfaces[i]
		if !strings.EqualFold(known.MAC, nic.MAC) {
			continue
		}
		known.InterfaceName = nic.Name
		known.InfoSource = "domain, guest-agent"
		var addresses []string
		for _, prefix := range nic.Addresses {
			address, _, _ := strings.Cut(prefix, "/")
			addresses = append(addresses, address)
		}
		if len(addresses) > 0 {
			known.IPs = addresses
			if known.IP == "" {
				known.IP = addresses[0]
			}
		}
		return
	}
}

// guestInfo asks the guest agent, at most once an interval for each guest.
func (e *Executor) guestInfo(ctx context.Context, ref hypervisor.Ref) (guestRecord, error) {
	e.mu.Lock()
	record, known := e.guests[ref.UID]
	e.mu.Unlock()
	if known && time.Since(record.asked) < guestInfoInterval/2 {
		return record, nil
	}
	info, err := e.Hypervisor.GuestInfo(ctx, ref)
	if err != nil {
		return record, fmt.Errorf("ask the guest agent: %w", err)
	}
	record = guestRecord{info: info, asked: time.Now()}
	e.mu.Lock()
	e.guests[ref.UID] = record
	e.mu.Unlock()
	return record, nil
}

func setPhase(vmi *kubevirtv1.VirtualMachineInstance, phase kubevirtv1.VirtualMachineInstancePhase) {
	if vmi.Status.Phase == phase {
		return
	}
	vmi.Status.Phase = phase
	vmi.Status.PhaseTransitionTimestamps = append(vmi.Status.PhaseTransitionTimestamps,
		kubevirtv1.VirtualMachineInstancePhaseTransitionTimestamp{Phase: phase, PhaseTransitionTimestamp: metav1.Now()})
}

// setCondition sets a condition; its transition time moves only when its
// status does.
func setCondition(vmi *kubevirtv1.VirtualMachineInstance, kind kubevirtv1.VirtualMachineInstanceConditionType, on bool, reason, message string) {
	status := corev1.ConditionFalse
	if on {
		status = corev1.ConditionTrue
	}
	wanted := kubevirtv1.VirtualMachineInstanceCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now(),
	}
	for i := range vmi.Status.Conditions {
		current := &vmi.Status.Conditions[i]
		if current.Type != kind {
			continue
		}
		if current.Status == status {
			wanted.LastTransitionTime = current.LastTransitionTime
			wanted.LastProbeTime = current.LastProbeTime
		}
		if !reflect.DeepEqual(*current, wanted) {
			*current = wanted
		}
		return
	}
	vmi.Status.Conditions = append(vmi.Status.Conditions, wanted)
}

func dropConditions(vmi *kubevirtv1.VirtualMachineInstance, kinds ...kubevirtv1.VirtualMachineInstanceConditionType) {
	kept := vmi.Status.Conditions[:0]
	for _, condition := range vmi.Status.Conditions {
		drop := false
		for _, kind := range kinds {
			drop = drop || condition.Type == kind
		}
		if !drop {
			kept = append(kept, condition)
		}
	}
	vmi.Status.Conditions = kept
}
