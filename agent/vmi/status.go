package vmi

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// UnprivilegedUser is the uid that KubeVirt runs guests under. The status of a new
// instance names this uid until the host that runs the instance reports the real one.
const UnprivilegedUser = 107

// ReasonMigrationNotAvailable is the reason why an instance cannot be migrated when
// nothing in the instance itself prevents a migration.
const ReasonMigrationNotAvailable = "MigrationNotAvailable"

// QOSClass is the class that Kubernetes would give an instance: Guaranteed if the
// limits of its CPUs and its memory equal its requests, as they do for instances with
// dedicated CPUs. It is never BestEffort: a guest always requests its memory.
func QOSClass(vmi *kubevirtv1.VirtualMachineInstance) corev1.PodQOSClass {
	if cpu := vmi.Spec.Domain.CPU; cpu != nil && cpu.DedicatedCPUPlacement {
		return corev1.PodQOSGuaranteed
	}
	resources := vmi.Spec.Domain.Resources
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, limited := resources.Limits[name]
		request, requested := resources.Requests[name]
		// A limit without a request counts as the request too.
		if !limited || limit.IsZero() || requested && request.Cmp(limit) != 0 {
			return corev1.PodQOSBurstable
		}
	}
	return corev1.PodQOSGuaranteed
}

// MigrationMethod tells whether a migration would have to copy disks: it would unless
// every volume is a claim that several hosts may write.
func MigrationMethod(vmi *kubevirtv1.VirtualMachineInstance) kubevirtv1.VirtualMachineInstanceMigrationMethod {
	for i := range vmi.Spec.Volumes {
		if volume := &vmi.Spec.Volumes[i]; DiskClaim(volume) == "" || !shared(vmi, volume.Name) {
			return kubevirtv1.BlockMigration
		}
	}
	return kubevirtv1.LiveMigration
}

// MigrationHindrance returns why an instance cannot be migrated: KubeVirt's reason if
// the instance uses something that another host would not have, or else
// ReasonMigrationNotAvailable.
func MigrationHindrance(vmi *kubevirtv1.VirtualMachineInstance) (reason, message string) {
	devices := &vmi.Spec.Domain.Devices
	for i := range vmi.Spec.Volumes {
		volume := &vmi.Spec.Volumes[i]
		switch claim := DiskClaim(volume); {
		case volume.HostDisk != nil && (volume.HostDisk.Shared == nil || !*volume.HostDisk.Shared):
			return kubevirtv1.VirtualMachineInstanceReasonDisksNotMigratable, fmt.Sprintf("volume %s is a disk of its host", volume.Name)
		case claim != "" && !shared(vmi, volume.Name):
			return kubevirtv1.VirtualMachineInstanceReasonDisksNotMigratable,
				fmt.Sprintf("claim %s of volume %s has no access mode ReadWriteMany, so one host at a time may write it", claim, volume.Name)
		}
	}
	for i := range devices.Interfaces {
		if card := &devices.Interfaces[i]; card.Bridge != nil && onPodNetwork(vmi, card.Name) {
			return kubevirtv1.VirtualMachineInstanceReasonInterfaceNotMigratable,
				fmt.Sprintf("interface %s is bridged to the pod network, whose addresses belong to a host: use masquerade", card.Name)
		} else if card.SRIOV != nil {
			return kubevirtv1.VirtualMachineInstanceReasonInterfaceNotMigratable, fmt.Sprintf("interface %s is a device of its host", card.Name)
		}
	}
	if StateClaim(vmi.Name, &vmi.Spec) != "" {
		return kubevirtv1.VirtualMachineInstanceReasonDisksNotMigratable, "what its TPM or firmware keeps is on its host"
	}
	switch launch := vmi.Spec.Domain.LaunchSecurity; {
	case len(devices.HostDevices)+len(devices.GPUs) > 0:
		return kubevirtv1.VirtualMachineInstanceReasonHostDeviceNotMigratable, "the instance has devices of its host"
	case len(devices.Filesystems) > 0:
		return kubevirtv1.VirtualMachineInstanceReasonVirtIOFSNotMigratable, "the instance shares directories of its host"
	case launch != nil && (launch.SEV != nil || launch.SNP != nil):
		return kubevirtv1.VirtualMachineInstanceReasonSEVNotMigratable, "the instance's memory is encrypted with a key of its host"
	case launch != nil && launch.TDX != nil:
		return kubevirtv1.VirtualMachineInstanceReasonTDXNotMigratable, "the instance's memory is encrypted with a key of its host"
	case reserves(devices.Disks):
		return kubevirtv1.VirtualMachineInstanceReasonPRNotMigratable, "a LUN keeps persistent reservations, which belong to a host"
	}
	return ReasonMigrationNotAvailable, "live migration is not available in this version"
}

// DiskClaim returns the name of the PersistentVolumeClaim that serves as a volume's
// disk, empty if there is none. An ephemeral disk that is made from a claim has none.
func DiskClaim(volume *kubevirtv1.Volume) string {
	if volume.PersistentVolumeClaim == nil && volume.DataVolume == nil {
		return ""
	}
	name, _ := claimOf(volume)
	return name
}

// shared reports whether the status says that several hosts may write the claim of
// the volume.
func shared(vmi *kubevirtv1.VirtualMachineInstance, volume string) bool {
	for i := range vmi.Status.VolumeStatus {
		if s := &vmi.Status.VolumeStatus[i]; s.Name == volume && s.PersistentVolumeClaimInfo != nil {
			return slices.Contains(s.PersistentVolumeClaimInfo.AccessModes, corev1.ReadWriteMany)
		}
	}
	return false
}

func onPodNetwork(vmi *kubevirtv1.VirtualMachineInstance, name string) bool {
	return slices.ContainsFunc(vmi.Spec.Networks, func(n kubevirtv1.Network) bool { return n.Name == name && n.Pod != nil })
}

func reserves(disks []kubevirtv1.Disk) bool {
	return slices.ContainsFunc(disks, func(d kubevirtv1.Disk) bool { return d.LUN != nil && d.LUN.Reservation })
}

// agentCommands are the commands that a guest agent must have for KubeVirt to call it
// supported.
var agentCommands = [...]string{
	"guest-ping", "guest-get-time", "guest-info", "guest-shutdown", "guest-network-get-interfaces", "guest-get-fsinfo",
	"guest-get-host-name", "guest-get-users", "guest-get-timezone", "guest-get-osinfo",
}

// MissingAgentCommands returns the required commands that are not among a guest agent's
// enabled commands, in a fixed order; empty if the agent has them all.
func MissingAgentCommands(enabled []string) string {
	var missing []string
	for _, name := range agentCommands {
		if !slices.Contains(enabled, name) {
			missing = append(missing, name)
		}
	}
	return strings.Join(missing, ", ")
}
