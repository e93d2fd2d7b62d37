package volumes

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
)

const (
	// preallocation marks a claim whose storage was set aside in full, as CDI does.
	preallocation = "cdi.kubevirt.io/storage.preallocation"
	// noOverhead is the share of a claim that its file system takes: none, because a
	// disk here has the full size that its claim asked for.
	noOverhead = kubevirtv1.Percent("0")
)

// claimInfo describes the claims that the instance's volumes use, by volume, as this
// host's replica shows them. A claim that does not exist is left out. With an error,
// the map holds the claims that could be read.
func (p *Provisioner) claimInfo(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]*kubevirtv1.PersistentVolumeClaimInfo, error) {
	infos := map[string]*kubevirtv1.PersistentVolumeClaimInfo{}
	var failed error
	for i := range vmi.Spec.Volumes {
		volume := &vmi.Spec.Volumes[i]
		name := machine.DiskClaim(volume)
		if name == "" {
			continue
		}
		claim, err := objects.Get[*corev1.PersistentVolumeClaim](ctx, p.Store, objects.Key{Namespace: vmi.Namespace, Name: name}, localRead)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			failed = errors.Join(failed, fmt.Errorf("read claim %s: %w", name, err))
		default:
			infos[volume.Name] = describeClaim(claim)
		}
	}
	return infos, failed
}

func describeClaim(claim *corev1.PersistentVolumeClaim) *kubevirtv1.PersistentVolumeClaimInfo {
	overhead := noOverhead
	return &kubevirtv1.PersistentVolumeClaimInfo{
		ClaimName: claim.Name, AccessModes: claim.Spec.AccessModes, VolumeMode: claim.Spec.VolumeMode,
		Capacity: claim.Status.Capacity, Requests: claim.Spec.Resources.Requests,
		Preallocated: claim.Annotations[preallocation] == "true", FilesystemOverhead: &overhead,
	}
}
