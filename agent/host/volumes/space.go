package volumes

import (
	"context"
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

// spaceInterval is how often the host looks again at what its volumes take, where no change of
// a claim would tell: the mesh may be raised to the level from which on it counts that, and an
// instance may end before its volume is made.
const spaceInterval = time.Minute

// takeSpace claims room for a volume that is about to be made. What was claimed for it when
// its first instance was placed here becomes the volume's own.
func (p *Provisioner) takeSpace(ctx context.Context, tx *objects.Tx, claim *corev1.PersistentVolumeClaim, at place) error {
	info := at.pool.Info()
	if info.Capabilities.Shared || claim.Status.Phase == corev1.ClaimBound || !claims.CountsPools(p.Store.FeatureLevel()) {
		return nil
	}
	have, err := claims.GetSpace(ctx, p.Store, p.Host, objects.KeyOf(claim), raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("claim %s: %w", claim.Name, err)
	}
	switch want := p.spaceOf(claim, info.Name, have); {
	case have == want:
	case have.UID == want.UID && have.Pool == want.Pool && have.Bytes >= want.Bytes:
		claims.NoteSpace(tx, want)
	default:
		claims.TakeSpace(tx, want)
	}
	return nil
}

// spaceOf returns the room that the volume of a claim takes in a pool of this host, to be
// stored in place of have.
func (p *Provisioner) spaceOf(claim *corev1.PersistentVolumeClaim, pool string, have claims.Space) claims.Space {
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	return claims.Space{
		Host: p.Host, Namespace: claim.Namespace, Claim: claim.Name, UID: claim.UID,
		Pool: pool, Bytes: storage.AlignSize(size.Value()), Revision: have.Revision,
	}
}

// countSpace makes the record of the room that the volume of a claim takes on this host what
// it must be; claim is nil if this host's copy has none of the key. The result says when to
// look again.
func (p *Provisioner) countSpace(ctx context.Context, key objects.Key, claim *corev1.PersistentVolumeClaim) (stewards.Result, error) {
	here := claim != nil && claim.Annotations[SelectedNode] == p.Host && !isStateClaim(claim)
	if !claims.CountsPools(p.Store.FeatureLevel()) {
		if here {
			return stewards.Result{RequeueAfter: spaceInterval}, nil
		}
		return stewards.Result{}, nil
	}
	have, err := claims.GetSpace(ctx, p.Store, p.Host, key, localRead)
	if err != nil {
		return stewards.Result{}, err
	}
	var tx objects.Tx
	if pool := annotatedPool(claim); here && pool != "" && claim.Status.Phase == corev1.ClaimBound {
		if want := p.spaceOf(claim, pool, have); want != have {
			claims.NoteSpace(&tx, want) // the volume is there, however full the pool is
		}
	} else if have.Revision != 0 {
		keep, err := p.needsSpace(ctx, have)
		switch {
		case err != nil:
			return stewards.Result{}, err
		case keep:
			return stewards.Result{RequeueAfter: spaceInterval}, nil
		}
		claims.FreeSpace(&tx, have)
	}
	if _, err := tx.Commit(ctx, p.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("claim %s: count what its volume takes: %w", key, err)
	}
	return stewards.Result{}, nil
}

func annotatedPool(claim *corev1.PersistentVolumeClaim) string {
	if claim == nil {
		return ""
	}
	return claim.Annotations[poolAnnotation]
}

// needsSpace reports whether room is needed on this host for a volume that is not there as far
// as this host's copy shows: it is about to be made here, or for an instance on its way.
func (p *Provisioner) needsSpace(ctx context.Context, have claims.Space) (bool, error) {
	claim, err := objects.Get[*corev1.PersistentVolumeClaim](ctx, p.Store, have.Key(), raftstore.ReadOptions{})
	if apierrors.IsNotFound(err) || err == nil && claim.UID != have.UID {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if have.For == "" {
		home := claim.Annotations[SelectedNode]
		return home == "" || home == p.Host, nil
	}
	in, placed, err := claims.GetInstance(ctx, p.Store, have.For, raftstore.ReadOptions{})
	return placed && in.Host == p.Host, err
}
