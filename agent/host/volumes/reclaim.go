package volumes

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
	"virtmesh/storage"
)

const (
	// instanceGoneInterval is how often a claim under deletion is checked for instances
	// that still use it.
	instanceGoneInterval = 2 * time.Second
	// hostGoneInterval is how often, for a claim under deletion, it is checked whether
	// the host of its volume was removed from the mesh.
	hostGoneInterval = time.Minute
	// confirmTimeout bounds how long the deletion of a volume waits for certainty.
	confirmTimeout = 10 * time.Second
)

// Reasons of events about claims; the first is Kubernetes' own.
const (
	reasonFailedDelete = "VolumeFailedDelete"
	reasonRetained     = "VolumeRetained"
	reasonLost         = "VolumeLost"
)

// Reconcile implements stewards.Reconciler: it counts the room that the volume of a claim
// takes on this host, and deletes the volume of a claim that is being deleted, once no
// instance uses it.
func (p *Provisioner) Reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	claim, ok := p.claims.Get(key)
	if !ok {
		claim = nil
	}
	counted, err := p.countSpace(ctx, key, claim)
	if err != nil || !ok || !objects.HasFinalizer(claim, claimFinalizer) {
		return counted, err
	}
	if isStateClaim(claim) {
		return p.reconcileState(ctx, claim)
	}
	if adopted, err := p.restoreAnnotations(ctx, claim); adopted || err != nil {
		return stewards.Result{}, err
	}
	if claim.DeletionTimestamp == nil {
		return counted, nil
	}
	home := claim.Annotations[SelectedNode]
	if home != "" && home != p.Host {
		return p.reclaimFor(ctx, claim, home)
	}
	pools, err := p.reclaimable(claim)
	if err != nil {
		p.Events.Event(claim, corev1.EventTypeWarning, reasonFailedDelete, err.Error())
		return stewards.Result{}, fmt.Errorf("claim %s: %w", key, err)
	}
	if len(pools) == 0 {
		return stewards.Result{}, nil
	}
	if used, err := p.inUse(ctx, claim); used || err != nil {
		return stewards.Result{RequeueAfter: instanceGoneInterval}, err
	}
	for _, pool := range pools {
		if err := p.deleteFrom(ctx, pool, claim); errors.Is(err, storage.ErrBusy) {
			p.Logger.Warn("the volume of a deleted claim is still busy", "claim", key.String(), "err", err)
			return stewards.Result{RequeueAfter: instanceGoneInterval}, nil
		} else if err != nil {
			p.Events.Event(claim, corev1.EventTypeWarning, reasonFailedDelete, err.Error())
			return stewards.Result{}, fmt.Errorf("claim %s: %w", key, err)
		}
	}
	return stewards.Result{}, p.removeFinalizer(ctx, claim)
}

// restoreAnnotations restores the annotations that say where a bound claim's volume is, if they
// are gone and this host has the volume. They are lost when a manifest without them
// replaces the claim. Without them no host would delete the volume, and placement
// would look for it on every host.
func (p *Provisioner) restoreAnnotations(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	recorded, home := claim.Annotations[poolAnnotation], claim.Annotations[SelectedNode]
	if claim.Status.Phase != corev1.ClaimBound || recorded != "" && home != "" {
		return false, nil
	}
	if pool, ok := p.Pools()[recorded]; recorded != "" && (!ok || pool.Info().Capabilities.Shared) {
		return false, nil
	}
	pool, err := p.holding(ctx, claim)
	if pool == nil || err != nil {
		return false, err
	}
	adopted := claim.DeepCopy()
	p.record(adopted, place{pool: pool})
	var tx objects.Tx
	tx.Update(claim, adopted)
	if tx.Empty() {
		return false, nil
	}
	return true, p.commit(ctx, &tx, claim)
}

// reclaimable returns the pools of this host from which the volume of a claim under
// deletion has to be deleted; none if another host has to do it. Without recorded
// annotations the volume was hardly begun, and it may be in any pool.
func (p *Provisioner) reclaimable(claim *corev1.PersistentVolumeClaim) ([]storage.Pool, error) {
	recorded, home := claim.Annotations[poolAnnotation], claim.Annotations[SelectedNode]
	bound := claim.Status.Phase == corev1.ClaimBound
	switch pool, err := p.pool(recorded); {
	case recorded == "" && bound:
		return nil, nil // the host that has it takes it up again
	case recorded == "":
		var all []storage.Pool
		for _, pool := range p.Pools() {
			all = append(all, pool)
		}
		return all, nil
	case err != nil && home == p.Host:
		return nil, err
	case err != nil:
		return nil, nil // it is shared by others
	case home == "" && bound && !pool.Info().Capabilities.Shared:
		return nil, nil
	default:
		return []storage.Pool{pool}, nil
	}
}

// deleteFrom deletes the claim's volume, unless the reclaim policy keeps it.
func (p *Provisioner) deleteFrom(ctx context.Context, pool storage.Pool, claim *corev1.PersistentVolumeClaim) error {
	if err := p.confirmMesh(ctx); err != nil {
		return err
	}
	if !retains(claim) {
		return pool.Delete(ctx, volumeName(claim))
	}
	kept, err := pool.Get(ctx, volumeName(claim))
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	p.Logger.Info("a volume is kept without its claim", "claim", objects.KeyOf(claim).String(), "pool", pool.Info().Name, "path", kept.Path)
	p.Events.Event(claim, corev1.EventTypeNormal, reasonRetained,
		fmt.Sprintf("volume %s stays in pool %s on host %s: %s", kept.Name, pool.Info().Name, p.Host, kept.Path))
	return nil
}

// confirmMesh returns once the state by which a volume is deleted is certainly the mesh's.
func (p *Provisioner) confirmMesh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	return p.Confirm(ctx)
}

// reclaimFor ends a claim under deletion in place of the host that had its volume,
// once that host was removed from the mesh: no other host would.
func (p *Provisioner) reclaimFor(ctx context.Context, claim *corev1.PersistentVolumeClaim, home string) (stewards.Result, error) {
	if !p.Mine(objects.KeyOf(claim)) {
		return stewards.Result{RequeueAfter: hostGoneInterval}, nil
	}
	removed, err := p.Removed(ctx, home)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("claim %s: %w", objects.KeyOf(claim), err)
	}
	if !removed {
		return stewards.Result{RequeueAfter: hostGoneInterval}, nil
	}
	if used, err := p.inUse(ctx, claim); used || err != nil {
		return stewards.Result{RequeueAfter: instanceGoneInterval}, err
	}
	return stewards.Result{}, p.abandonClaim(ctx, claim, home)
}

// Bury ends the claims under deletion whose volumes were on a host that has just been
// removed from the mesh. Reconcile ends those that are still in use or are deleted
// later.
func (p *Provisioner) Bury(ctx context.Context, host string) error {
	if err := p.claims.WaitForSync(ctx); err != nil {
		return err
	}
	var errs []error
	for _, claim := range p.claims.List("") {
		if claim.DeletionTimestamp == nil || claim.Annotations[SelectedNode] != host || !objects.HasFinalizer(claim, claimFinalizer) {
			continue
		}
		used, err := p.inUse(ctx, claim)
		if err == nil && !used {
			err = p.abandonClaim(ctx, claim, host)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (p *Provisioner) abandonClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, host string) error {
	p.Events.Event(claim, corev1.EventTypeWarning, reasonLost,
		fmt.Sprintf("volume %s was on host %s, which was removed from the mesh: it is not deleted there", volumeName(claim), host))
	return p.removeFinalizer(ctx, claim)
}

// removeFinalizer removes the finalizer of a claim whose volume was deleted, kept or lost.
func (p *Provisioner) removeFinalizer(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	released := claim.DeepCopy()
	objects.RemoveFinalizer(released, claimFinalizer)
	var tx objects.Tx
	tx.Update(claim, released)
	return p.commit(ctx, &tx, claim)
}

// commit is for writes that several hosts may attempt at once. A host that comes too
// late has nothing left to do, or reconciles the changed claim again.
func (p *Provisioner) commit(ctx context.Context, tx *objects.Tx, claim *corev1.PersistentVolumeClaim) error {
	if _, err := tx.Commit(ctx, p.Store); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("claim %s: %w", objects.KeyOf(claim), err)
	}
	return nil
}

// inUse reports whether an instance uses a claim under deletion: one that runs, as this
// host's replica shows it, or one to which the volume is attached. Both are checked: the
// replica may lag behind, and an instance is Running only after its volumes are attached.
//
// An instance that waits for the claim does not use it. It cannot attach the claim any
// more, and would wait for ever if the claim waited for it.
func (p *Provisioner) inUse(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if err := p.vmis.WaitForSync(ctx); err != nil {
		return true, fmt.Errorf("wait for the list of instances: %w", err)
	}
	// Most often this host's copy knows the answer, and nobody has to be asked.
	if held, err := claims.GetVolume(ctx, p.Store, objects.KeyOf(claim), localRead); err != nil || len(held.Holders) > 0 {
		return true, err
	}
	if used := len(p.users.Naming(objects.KeyOf(claim))) > 0; used && !isStateClaim(claim) {
		return true, nil
	}
	held, err := claims.GetVolume(ctx, p.Store, objects.KeyOf(claim), raftstore.ReadOptions{})
	return len(held.Holders) > 0, err
}
