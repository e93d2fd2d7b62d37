package vmi

import (
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// SharesDisks reports whether another machine may have a disk of this one open at the same
// time: one that both may write, or a claim's that both only read.
func SharesDisks(spec *kubevirtv1.VirtualMachineInstanceSpec) bool {
	for _, disk := range spec.Domain.Devices.Disks {
		if isTrue(disk.Shareable) {
			return true
		}
	}
	for _, volume := range spec.Volumes {
		if claim := volume.PersistentVolumeClaim; claim != nil && claim.ReadOnly {
			return true
		}
	}
	return false
}
