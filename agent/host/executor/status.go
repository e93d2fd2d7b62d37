package executor

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// reasonNotRunning is Ready's while the guest's CPUs do not run.
const reasonNotRunning = "GuestNotRunning"

// report publishes the status of an instance whose guest exists. Nothing is
// written when nothing changed. The events of a start go with it, so that they
// cost no write of their own; warnings are among them.
func (e *Executor) report(ctx context.Context, r *run) error {
	vmi := r.instance
	updated := vmi.DeepCopy()
	machine.SetPhase(updated, kubevirtv1.Running, r.now)
	e.describeMachine(updated)
	e.describeImages(updated, r)
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceSynchronized, true, "", ""), r.now)
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceIsMigratable, false, "MigrationNotAvailable", "live migration is not available in this version"), r.now)
	wait := e.describeState(updated, r)
	updated.Status.Interfaces = e.Network.Interfaces(vmi)
	r.result.RequeueAfter = sooner(wait, e.describeAgent(vmi, updated, r))
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

// sooner returns the shorter of two times to wait, of which zero is for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// describeState tells whether the guest runs. A pause, which is the host's or a
// user's doing, is told at once. What the guest does to itself, as going to sleep,
// is told only so often. It returns when to look again.
func (e *Executor) describeState(updated *kubevirtv1.VirtualMachineInstance, r *run) time.Duration {
	paused, wasPaused := r.domain.State == hypervisor.StatePaused, machine.HasCondition(r.instance, kubevirtv1.VirtualMachineInstancePaused)
	running, wait := r.domain.State == hypervisor.StateRunning, time.Duration(0)
	if shown := machine.Condition(r.instance, kubevirtv1.VirtualMachineInstanceReady); shown != nil && !paused && !wasPaused && r.instance.Status.Phase == kubevirtv1.Running {
		running, wait = e.flips.settle(r.ref.UID, kubevirtv1.VirtualMachineInstanceReady, shown.Status == corev1.ConditionTrue, running)
	}
	reason := reasonNotRunning
	if running {
		reason = ""
	}
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, running, reason, ""), r.now)
	if !paused {
		machine.DropConditions(updated, kubevirtv1.VirtualMachineInstancePaused)
		return wait
	}
	machine.SetCondition(updated, machine.NewCondition(kubevirtv1.VirtualMachineInstancePaused, true, pausedReason(r.domain.Reason),
		"the guest's virtual CPUs are stopped"), r.now)
	return wait
}

// pausedReason names why a guest is paused, as KubeVirt does where it tells it.
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
	return "PausedByUser"
}

// describeMachine fills in what follows from specification and host.
func (e *Executor) describeMachine(vmi *kubevirtv1.VirtualMachineInstance) {
	status := &vmi.Status
	if status.Machine == nil {
		// Where and with which emulator it starts next, the guest finds the same machine.
		status.Machine = &kubevirtv1.Machine{Type: e.Machine.CanonicalMachine(machine.MachineType(vmi))}
	}
	if cpu := vmi.Spec.Domain.CPU; cpu != nil {
		status.CurrentCPUTopology = &kubevirtv1.CPUTopology{Cores: cpu.Cores, Sockets: cpu.Sockets, Threads: cpu.Threads}
	}
	if memory := vmi.Spec.Domain.Memory; memory != nil && memory.Guest != nil {
		status.Memory = &kubevirtv1.MemoryStatus{GuestAtBoot: memory.Guest, GuestCurrent: memory.Guest, GuestRequested: memory.Guest}
	}
	qos := corev1.PodQOSBurstable
	status.QOSClass = &qos
	status.EvacuationNodeName = ""
	if len(status.VolumeStatus) == 0 {
		for _, volume := range vmi.Spec.Volumes {
			status.VolumeStatus = append(status.VolumeStatus, kubevirtv1.VolumeStatus{Name: volume.Name})
		}
	}
}

// AnnotationImages holds the digests of the container images that an instance's
// disks were made from, by volume, as JSON. The spec's references may be tags,
// which move; another host that is to have the same disk needs the digest.
const AnnotationImages = "virtmesh.io/image-digests"

// describeImages writes down what the disks were made from, once.
func (e *Executor) describeImages(vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	pulled := slices.ContainsFunc(vmi.Spec.Volumes, func(v kubevirtv1.Volume) bool { return v.ContainerDisk != nil })
	if !pulled || vmi.Annotations[AnnotationImages] != "" {
		return
	}
	digests, err := e.Volumes.ImageDigests(r.ref)
	if err != nil {
		e.Logger.Warn("image digests could not be read", "instance", r.ref.String(), "err", err)
	}
	text, err := json.Marshal(digests)
	if err != nil || len(digests) == 0 {
		return
	}
	if vmi.Annotations == nil {
		vmi.Annotations = map[string]string{}
	}
	vmi.Annotations[AnnotationImages] = string(text)
}

// describeAgent tells whether the guest's agent is connected and what it says. A
// guest that does not answer keeps its last answer, also over a restart of this
// host's agent. It returns when to look again.
func (e *Executor) describeAgent(before, updated *kubevirtv1.VirtualMachineInstance, r *run) time.Duration {
	const kind = kubevirtv1.VirtualMachineInstanceAgentConnected
	connected, wait := e.flips.settle(r.ref.UID, kind, machine.HasCondition(before, kind), r.domain.AgentConnected)
	if !connected {
		machine.DropConditions(updated, kind)
		updated.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{}
		return wait
	}
	machine.SetCondition(updated, machine.NewCondition(kind, true, "", ""), r.now)
	info, known, next := e.agents.look(r.ref)
	if known {
		addGuestInfo(updated, info)
	} else {
		keepGuestInterfaces(updated, before.Status.Interfaces)
	}
	return sooner(wait, next)
}

func addGuestInfo(vmi *kubevirtv1.VirtualMachineInstance, info hypervisor.GuestInfo) {
	os := info.OS
	vmi.Status.GuestOSInfo = kubevirtv1.VirtualMachineInstanceGuestOSInfo{
		Name: os.Name, Version: os.Version, PrettyName: os.PrettyName, VersionID: os.VersionID,
		KernelRelease: os.KernelRelease, KernelVersion: os.KernelVersion, Machine: os.Machine, ID: os.ID,
	}
	for i := range vmi.Status.Interfaces {
		addGuestInterface(&vmi.Status.Interfaces[i], info.Interfaces)
	}
}

// infoSourceGuest says that host and guest both know the card.
const infoSourceGuest = "domain, guest-agent"

// addGuestInterface adds what the guest says of a card to what the host knows. The
// guest's bridges and VLANs on the card have its MAC too: the card itself is the
// first of them, for the guest numbers it before what it puts upon it. The address
// that the host gave stays first, the guest's follow.
func addGuestInterface(known *kubevirtv1.VirtualMachineInstanceNetworkInterface, guest []hypervisor.GuestInterface) {
	var addresses []string
	for _, nic := range guest {
		if known.MAC == "" || !strings.EqualFold(known.MAC, nic.MAC) {
			continue
		}
		if known.InfoSource != infoSourceGuest {
			known.InfoSource, known.InterfaceName = infoSourceGuest, nic.Name
		}
		for _, prefix := range nic.Addresses {
			address, _, _ := strings.Cut(prefix, "/")
			addresses = append(addresses, address)
		}
	}
	addAddresses(known, addresses)
}

// addAddresses appends addresses that the card does not have yet.
func addAddresses(known *kubevirtv1.VirtualMachineInstanceNetworkInterface, addresses []string) {
	if known.IP != "" && !slices.Contains(known.IPs, known.IP) {
		known.IPs = append([]string{known.IP}, known.IPs...)
	}
	for _, address := range addresses {
		if !slices.Contains(known.IPs, address) {
			known.IPs = append(known.IPs, address)
		}
	}
	if known.IP == "" && len(known.IPs) > 0 {
		known.IP = known.IPs[0]
	}
}

// keepGuestInterfaces keeps what a guest said of its cards before: nothing was
// heard of it since this process began.
func keepGuestInterfaces(vmi *kubevirtv1.VirtualMachineInstance, before []kubevirtv1.VirtualMachineInstanceNetworkInterface) {
	for i := range vmi.Status.Interfaces {
		known := &vmi.Status.Interfaces[i]
		for _, old := range before {
			if old.Name == known.Name && strings.EqualFold(old.MAC, known.MAC) && old.InfoSource == infoSourceGuest {
				known.InfoSource, known.InterfaceName = old.InfoSource, old.InterfaceName
				addAddresses(known, old.IPs)
			}
		}
	}
}
