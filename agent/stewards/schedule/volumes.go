package schedule

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	cdiv1 "kubevirt.io/containerized-data-importer-api/pkg/apis/core/v1beta1"

	"virtmesh/agent/claims"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
	"virtmesh/storage"
)

// Volumes finds the hosts that can reach the volumes of an instance.
type Volumes interface {
	// Locate returns where the volume of the claim is or will be. An error says why the
	// claim cannot be used yet; *VolumeProblem names the reason for the status.
	Locate(namespace, claim string) (Location, error)
}

// Location is where the volume of a claim is, or will be.
type Location struct {
	// Hosts are the hosts that can reach the volume: nil if all can, or if the volume will
	// be made on the host of the instance.
	Hosts []string
	// Unmade is the volume if it is still to be made, nil if it is there.
	Unmade *place.Volume
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
	pvcs    *objects.Informer[*corev1.PersistentVolumeClaim]
	dvs     *objects.Informer[*cdiv1.DataVolume]
	classes *objects.Informer[*storagev1.StorageClass]
}

var (
	_ Volumes = claimVolumes{}
	_ error   = (*VolumeProblem)(nil)
)

// FromClaims returns Volumes that locate a volume by the annotation kinds.SelectedNode of
// its claim, and that report a data volume as a problem until it is filled.
func FromClaims(cache *objects.Cache) Volumes {
	return claimVolumes{
		pvcs:    objects.For[*corev1.PersistentVolumeClaim](cache),
		dvs:     objects.For[*cdiv1.DataVolume](cache),
		classes: objects.For[*storagev1.StorageClass](cache),
	}
}

// Locate implements Volumes.
func (v claimVolumes) Locate(namespace, claim string) (Location, error) {
	key := objects.Key{Namespace: namespace, Name: claim}
	waits := false
	if dv, ok := v.dvs.Get(key); ok {
		switch dv.Status.Phase {
		case cdiv1.Succeeded:
		case cdiv1.WaitForFirstConsumer, cdiv1.PendingPopulation:
			waits = true
		default:
			return Location{}, &VolumeProblem{ReasonVolumeNotReady, fmt.Sprintf("DataVolume %s is being filled", claim)}
		}
	}
	pvc, ok := v.pvcs.Get(key)
	switch {
	case !ok && waits:
		return Location{}, nil
	case !ok:
		return Location{}, &VolumeProblem{ReasonPVCNotFound, fmt.Sprintf("PVC %s/%s does not exist", namespace, claim)}
	}
	var at Location
	if host := pvc.Annotations[kinds.SelectedNode]; host != "" {
		at.Hosts = []string{host}
	}
	if pvc.Status.Phase != corev1.ClaimBound {
		size := pvc.Spec.Resources.Requests[corev1.ResourceStorage]
		at.Unmade = &place.Volume{Claim: claim, UID: pvc.UID, Pool: v.poolOf(pvc), Bytes: storage.AlignSize(size.Value())}
	}
	return at, nil
}

// poolOf returns the pool in which the volume of a claim will be made: the one that is
// recorded, or that of its class.
func (v claimVolumes) poolOf(pvc *corev1.PersistentVolumeClaim) string {
	if recorded := pvc.Annotations[kinds.VolumePool]; recorded != "" {
		return recorded
	}
	if name := pvc.Spec.StorageClassName; name != nil && *name != "" {
		if class, ok := v.classes.Get(objects.Key{Name: *name}); ok {
			return kinds.PoolOf(class)
		}
		return *name
	}
	for _, class := range v.classes.List("") {
		if class.Annotations[kinds.DefaultClass] == "true" {
			return kinds.PoolOf(class)
		}
	}
	return kinds.DefaultPool
}

// takeSpace claims room for the volumes that are to be made on the host of an instance. What
// another instance has claimed for one of them goes over to this one: the other may end
// before the volume is made, and the host then frees what is the other's.
func (c *Controller) takeSpace(tx *objects.Tx, in claims.Instance, unmade []place.Volume) {
	capacity, _ := c.cfg.Claims.Capacity(in.Host)
	if !claims.CountsPools(c.cfg.Store.FeatureLevel()) {
		return
	}
	for _, v := range unmade {
		have, _ := c.cfg.Claims.Space(in.Host, objects.Key{Namespace: in.Namespace, Name: v.Claim})
		if !capacity.CountsPool(v.Pool) {
			continue
		}
		if have.UID == v.UID && have.Pool == v.Pool && have.Bytes >= v.Bytes {
			if have.For != "" { // else it is the volume's own
				have.For = in.UID
				claims.NoteSpace(tx, have)
			}
			continue
		}
		claims.TakeSpace(tx, claims.Space{
			Host: in.Host, Namespace: in.Namespace, Claim: v.Claim, UID: v.UID, Pool: v.Pool, Bytes: v.Bytes, For: in.UID, Revision: have.Revision,
		})
	}
}

// hasSpace reports whether room is claimed already for a volume on the only host that can have
// it.
func (c *Controller) hasSpace(namespace string, at Location) bool {
	if len(at.Hosts) != 1 {
		return false
	}
	have, ok := c.cfg.Claims.Space(at.Hosts[0], objects.Key{Namespace: namespace, Name: at.Unmade.Claim})
	return ok && have.UID == at.Unmade.UID
}
