package schedule

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/objects"
)

// AnnotationSelectedNode on a PersistentVolumeClaim names the host that holds
// a host-local volume.
const AnnotationSelectedNode = "volume.kubernetes.io/selected-node"

// Volumes finds the hosts that can reach the volumes of an instance.
type Volumes interface {
	// Locate returns the hosts that can reach the volume of the claim. It
	// returns nil if all can, or if the volume will be created on the host of
	// the instance. An error says why the claim cannot be used yet;
	// *VolumeProblem names the reason for the status.
	Locate(namespace, claim string) (hosts []string, err error)
}

// VolumeProblem is the reason why an instance has to wait for a volume.
type VolumeProblem struct {
	// Reason is the reason of the condition Synchronized.
	Reason  string
	Message string
}

// Error implements error.
func (p *VolumeProblem) Error() string { return p.Message }

// ReasonPVCNotFound is the reason for a claim that does not exist.
const ReasonPVCNotFound = "FailedPvcNotFound"

// ReasonVolumeNotReady is the reason for a claim that is still being filled.
const ReasonVolumeNotReady = "VolumeNotReady"

// claimVolumes locates volumes by their PersistentVolumeClaims.
type claimVolumes struct {
	pvcs *objects.Informer[*corev1.PersistentVolumeClaim]
	dvs  *objects.Informer[*cdiv1.DataVolume]
}

var (
	_ Volumes = claimVolumes{}
	_ error   = (*VolumeProblem)(nil)
)

// FromClaims returns Volumes that locate a volume by the annotation
// AnnotationSelectedNode of its claim, and that report a data volume as a
// problem until it is filled.
func FromClaims(cache *objects.Cache) Volumes {
	return claimVolumes{
		pvcs: objects.For[*corev1.PersistentVolumeClaim](cache),
		dvs:  objects.For[*cdiv1.DataVolume](cache),
	}
}

// Locate implements Volumes.
func (v claimVolumes) Locate(namespace, claim string) ([]string, error) {
	key := objects.Key{Namespace: namespace, Name: claim}
	waits := false
	if dv, ok := v.dvs.Get(key); ok {
		switch dv.Status.Phase {
		case cdiv1.Succeeded:
		case cdiv1.WaitForFirstConsumer, cdiv1.PendingPopulation:
			waits = true
		default:
			return nil, &VolumeProblem{ReasonVolumeNotReady, fmt.Sprintf("DataVolume %s is being filled", claim)}
		}
	}
	pvc, ok := v.pvcs.Get(key)
	switch {
	case !ok && waits:
		return nil, nil
	case !ok:
		return nil, &VolumeProblem{ReasonPVCNotFound, fmt.Sprintf("PVC %s/%s does not exist", namespace, claim)}
	case pvc.Annotations[AnnotationSelectedNode] != "":
		return []string{pvc.Annotations[AnnotationSelectedNode]}, nil
	}
	return nil, nil
}
