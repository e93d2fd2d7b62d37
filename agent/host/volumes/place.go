package volumes

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/storage"
)

// place is where a claim's volume is, and whether it outlives its claim.
type place struct {
	pool storage.Pool
	// retain keeps the volume when its claim is deleted.
	retain bool
}

// placeOf finds the place of a claim's volume. The StorageClass decides only for a
// claim that has never been used: later the class may have changed or be gone.
func (p *Provisioner) placeOf(ctx context.Context, claim *corev1.PersistentVolumeClaim) (place, error) {
	if recorded := claim.Annotations[poolAnnotation]; recorded != "" {
		pool, err := p.pool(recorded)
		if err != nil {
			return place{}, fmt.Errorf("claim %s: %w", claim.Name, err)
		}
		return place{pool, retains(claim)}, nil
	}
	if claim.Status.Phase == corev1.ClaimBound {
		pool, err := p.holding(ctx, claim)
		if err == nil && pool == nil {
			err = fmt.Errorf("it is bound, but its annotation %s is gone and no pool of host %s holds its volume %s", poolAnnotation, p.Host, volumeName(claim))
		}
		if err != nil {
			return place{}, fmt.Errorf("claim %s: %w", claim.Name, err)
		}
		return place{pool, retains(claim)}, nil
	}
	class, err := p.classOf(ctx, claim)
	if err != nil {
		return place{}, err
	}
	pool, err := p.pool(kinds.PoolOf(class))
	if err != nil {
		return place{}, fmt.Errorf("StorageClass of claim %s: %w", claim.Name, err)
	}
	retain := class != nil && class.ReclaimPolicy != nil && *class.ReclaimPolicy == corev1.PersistentVolumeReclaimRetain
	return place{pool, retain}, nil
}

// pool returns a pool of this host.
func (p *Provisioner) pool(name string) (storage.Pool, error) {
	pools := p.Pools()
	if pool, ok := pools[name]; ok {
		return pool, nil
	}
	if p.Unusable != nil {
		if err := p.Unusable(name); err != nil {
			return nil, fmt.Errorf("host %s cannot use pool %q: %w", p.Host, name, err)
		}
	}
	return nil, fmt.Errorf("host %s has no pool %q; its configuration has %v", p.Host, name, slices.Sorted(maps.Keys(pools)))
}

// holding returns the pool of this host that holds the claim's volume, nil if
// none does. It is for claims that have lost their annotations.
func (p *Provisioner) holding(ctx context.Context, claim *corev1.PersistentVolumeClaim) (storage.Pool, error) {
	pools := p.Pools()
	for _, name := range slices.Sorted(maps.Keys(pools)) {
		_, err := pools[name].Get(ctx, volumeName(claim))
		if err == nil {
			return pools[name], nil
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
	}
	return nil, nil
}

// record sets the claim's annotations that say where its volume is.
func (p *Provisioner) record(claim *corev1.PersistentVolumeClaim, place place) {
	if claim.Annotations == nil {
		claim.Annotations = map[string]string{}
	}
	info := place.pool.Info()
	claim.Annotations[poolAnnotation] = info.Name
	if !info.Capabilities.Shared {
		claim.Annotations[SelectedNode] = p.Host
	}
	if place.retain {
		claim.Annotations[policyAnnotation] = string(corev1.PersistentVolumeReclaimRetain)
	}
}

func retains(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[policyAnnotation] == string(corev1.PersistentVolumeReclaimRetain)
}

// classOf returns the StorageClass of a claim: the class that it names, or the default
// class; nil if there is neither.
func (p *Provisioner) classOf(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*storagev1.StorageClass, error) {
	if name := claim.Spec.StorageClassName; name != nil && *name != "" {
		class, err := objects.Get[*storagev1.StorageClass](ctx, p.Store, objects.Key{Name: *name}, localRead)
		if err != nil {
			return nil, fmt.Errorf("claim %s: StorageClass %s: %w", claim.Name, *name, err)
		}
		return class, nil
	}
	classes, _, err := objects.List[*storagev1.StorageClass](ctx, p.Store, "", localRead)
	if err != nil {
		return nil, fmt.Errorf("list storage classes: %w", err)
	}
	for _, class := range classes {
		if class.Annotations[kinds.DefaultClass] == "true" {
			return class, nil
		}
	}
	return nil, nil
}
