package executor

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
)

// report publishes the status of an instance whose guest exists. Nothing is
// written when nothing changed. The events of a start go with it, so that they
// cost no write of their own; warnings are among them.
func (e *Executor) report(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, domain hypervisor.Domain, warnings ...string) (stewards.Result, error) {
	updated, now := vmi.DeepCopy(), time.Now()
	machine.SetPhase(updated, kubevirtv1.Running, now)
	e.describeMachine(updated)
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceSynchronized, true, "", ""), now)
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, domain.State == hypervisor.StateRunning, notRunningReason(domain), ""), now)
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceIsMigratable, false, "MigrationNotAvailable", "live migration is not available in this version"), now)
	if domain.State == hypervisor.StatePaused {
		machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstancePaused, true, pausedReason(domain.Reason), "the guest's virtual CPUs are stopped"), now)
	} else {
		machine.DropConditions(updated, kubevirtv1.VirtualMachineInstancePaused)
	}
	updated.Status.Interfaces = e.Network.Interfaces(vmi)
	result := stewards.Result{RequeueAfter: e.describeAgent(updated, domain)}
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
	if err := e.commit(ctx, &tx); err != nil {
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
	updated, now := vmi.DeepCopy(), time.Now()
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceSynchronized, false, reason, cause.Error()), now)
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, false, reason, cause.Error()), now)
	var tx objects.Tx
	tx.UpdateStatus(vmi, updated)
	if tx.Empty() {
		return nil
	}
	if err := e.commit(ctx, &tx); err != nil && !apierrors.IsNotFound(err) {
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

// describeAgent tells whether the guest's agent is connected and what it says. A
// guest that does not answer keeps its last answer. It returns when to look again.
func (e *Executor) describeAgent(vmi *kubevirtv1.VirtualMachineInstance, domain hypervisor.Domain) time.Duration {
	connected, wait := e.agents.settle(string(vmi.UID), machine.HasCondition(vmi, kubevirtv1.VirtualMachineInstanceAgentConnected), domain.AgentConnected)
	if !connected {
		machine.DropConditions(vmi, kubevirtv1.VirtualMachineInstanceAgentConnected)
		vmi.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{}
		return wait
	}
	machine.SetCondition(vmi, machine.NewCondition(kubevirtv1.VirtualMachineInstanceAgentConnected, true, "", ""), time.Now())
	info, known, next := e.agents.look(refOf(vmi))
	if known {
		addGuestInfo(vmi, info)
	}
	if wait > 0 {
		return min(wait, next)
	}
	return next
}

func addGuestInfo(vmi *kubevirtv1.VirtualMachineInstance, info hypervisor.GuestInfo) {
	os := info.OS
	vmi.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{
		Name: os.Name, Version: os.Version, PrettyName: os.PrettyName, VersionID: os.VersionID,
		KernelRelease: os.KernelRelease, KernelVersion: os.KernelVersion, Machine: os.Machine, ID: os.ID,
	}
	for _, nic := range info.Interfaces {
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
