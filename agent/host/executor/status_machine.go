package executor

import (
	"context"
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// describeMachine fills in the status fields that follow from specification, host and
// domain.
func (e *Executor) describeMachine(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	status := &vmi.Status
	if host, err := e.Machine(); err == nil && status.Machine == nil {
		// The machine type is kept, so that the guest finds the same machine on whatever
		// host and emulator it starts next.
		status.Machine = &kubevirtv1.Machine{Type: host.CanonicalMachine(machine.MachineType(vmi))}
	}
	if cpu := vmi.Spec.Domain.CPU; cpu != nil {
		status.CurrentCPUTopology = &kubevirtv1.CPUTopology{Cores: cpu.Cores, Sockets: cpu.Sockets, Threads: cpu.Threads}
	}
	qos := machine.QOSClass(vmi)
	status.QOSClass = &qos
	status.RuntimeUser = e.RuntimeUser
	if r.domain.User != 0 {
		status.RuntimeUser = uint64(r.domain.User)
	}
	e.describeMemory(vmi, r)
	e.describeVolumes(ctx, vmi, r)
	e.describeImages(vmi, r)
	describeMigration(vmi, r)
	describeCredentials(vmi, r)
	describeDataVolumes(vmi, r)
}

// kindBalloon is the key in flips for changes of guestCurrent. There is no condition of
// that name.
const kindBalloon = kubevirtv1.VirtualMachineInstanceConditionType("memory.guestCurrent")

// describeMemory sets the memory that the guest had at boot, that it is meant to have,
// and that it has now. The guest chooses how much memory it gives to the balloon, so
// flips limits how often the last one changes.
func (e *Executor) describeMemory(vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	memory := vmi.Spec.Domain.Memory
	if memory == nil || memory.Guest == nil {
		return
	}
	if vmi.Status.Memory == nil {
		vmi.Status.Memory = &kubevirtv1.MemoryStatus{}
	}
	status := vmi.Status.Memory
	if status.GuestAtBoot == nil {
		status.GuestAtBoot = memory.Guest
	}
	status.GuestRequested = memory.Guest
	status.MemoryOverhead = resource.NewQuantity(machine.Overhead(&vmi.Spec), resource.BinarySI)
	current := resource.NewQuantity(r.domain.MemoryBytes, resource.BinarySI)
	if r.domain.MemoryBytes == 0 {
		current = memory.Guest
	}
	if status.GuestCurrent == nil {
		status.GuestCurrent = current
	}
	changed := status.GuestCurrent.Cmp(*current) != 0
	if tell, _ := e.flips.limitChange(r.ref.UID, kindBalloon, false, changed); tell {
		status.GuestCurrent = current
	}
}

// describeVolumes names the disks as the domain does, and copies what the status of a
// volume holds of its claim. What a claim that cannot be read now said before stays.
func (e *Executor) describeVolumes(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	claims, err := e.Volumes.ClaimInfo(ctx, vmi)
	if err != nil {
		e.Logger.Warn("claims could not be read for the status", "instance", r.ref.String(), "err", err)
	}
	var list []kubevirtv1.VolumeStatus
	known := map[string]bool{}
	for _, volume := range vmi.Spec.Volumes {
		status := kubevirtv1.VolumeStatus{Name: volume.Name}
		for _, before := range vmi.Status.VolumeStatus {
			if before.Name == volume.Name {
				status = before
			}
		}
		if target := r.domain.Disks[volume.Name]; target != "" {
			status.Target = target
		}
		if info := claims[volume.Name]; info != nil {
			status.PersistentVolumeClaimInfo = info
		}
		list, known[volume.Name] = append(list, status), true
	}
	for _, before := range vmi.Status.VolumeStatus {
		if !known[before.Name] && before.HotplugVolume != nil {
			list = append(list, before)
		}
	}
	vmi.Status.VolumeStatus = list
}

// AnnotationImages holds the digests of the container images that an instance's
// disks were made from, by volume, as JSON. The spec's references may be tags,
// which move; another host that is to have the same disk needs the digest.
const AnnotationImages = "virtmesh.io/image-digests"

// describeImages sets AnnotationImages, once.
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

// describeMigration sets how the instance would be migrated and the conditions that
// say why it cannot be.
func describeMigration(vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	vmi.Status.MigrationMethod = machine.MigrationMethod(vmi)
	vmi.Status.MigrationTransport = kubevirtv1.MigrationTransportUnix
	reason, message := machine.MigrationHindrance(vmi)
	for _, kind := range []kubevirtv1.VirtualMachineInstanceConditionType{
		kubevirtv1.VirtualMachineInstanceIsMigratable, kubevirtv1.VirtualMachineInstanceIsStorageLiveMigratable,
	} {
		machine.SetCondition(vmi, machine.NewCondition(kind, false, reason, message), r.now)
	}
}

// describeCredentials sets the condition that says that access credentials are not
// passed to the guest.
func describeCredentials(vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	const kind = kubevirtv1.VirtualMachineInstanceAccessCredentialsSynchronized
	if len(vmi.Spec.AccessCredentials) == 0 {
		machine.DropConditions(vmi, kind)
		return
	}
	machine.SetCondition(vmi, machine.NewCondition(kind, false, "AccessCredentialsNotSupported",
		"accessCredentials are not put into the guest: give keys and passwords by cloud-init"), r.now)
}

// describeDataVolumes sets the condition that says that the data volumes are ready:
// the guest would not run otherwise.
func describeDataVolumes(vmi *kubevirtv1.VirtualMachineInstance, r *run) {
	const kind = kubevirtv1.VirtualMachineInstanceDataVolumesReady
	if !slices.ContainsFunc(vmi.Spec.Volumes, func(v kubevirtv1.Volume) bool { return v.DataVolume != nil }) {
		machine.DropConditions(vmi, kind)
		return
	}
	condition := kubevirtv1.VirtualMachineInstanceCondition{
		Type: kind, Status: corev1.ConditionTrue,
		Reason:  kubevirtv1.VirtualMachineInstanceReasonAllDVsReady,
		Message: "all DataVolumes of the instance are ready",
	}
	machine.SetCondition(vmi, condition, r.now)
}
