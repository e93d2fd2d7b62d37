package vm

import (
	"fmt"

	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// snapshotStatuses returns for each volume whether a snapshot can include it.
// No volume can be included yet. The reasons are those that KubeVirt gives for
// volumes without snapshot support, and for claims whose storage class is not
// configured for snapshots.
func snapshotStatuses(vm *kubevirtv1.VirtualMachine) []kubevirtv1.VolumeSnapshotStatus {
	if vm.Spec.Template == nil {
		return nil
	}
	var statuses []kubevirtv1.VolumeSnapshotStatus
	for i := range vm.Spec.Template.Spec.Volumes {
		volume := &vm.Spec.Template.Spec.Volumes[i]
		reason := fmt.Sprintf("Snapshot is not supported for this volumeSource type [%s]", volume.Name)
		if machine.DiskClaim(volume) != "" {
			reason = fmt.Sprintf("No VolumeSnapshotClass: Volume snapshots are not configured for this StorageClass [%s]", volume.Name)
		}
		statuses = append(statuses, kubevirtv1.VolumeSnapshotStatus{Name: volume.Name, Reason: reason})
	}
	return statuses
}
