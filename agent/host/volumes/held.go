package volumes

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// HeldOn lists the claims whose volume, or state of a TPM and firmware, is on the host by
// what the claims say. A claim that is not bound has nothing there yet, whatever its
// annotation says.
func HeldOn(ctx context.Context, s objects.Store, host string, opts raftstore.ReadOptions) ([]objects.Key, error) {
	all, _, err := objects.List[*corev1.PersistentVolumeClaim](ctx, s, "", opts)
	if err != nil {
		return nil, fmt.Errorf("list the volumes on %s: %w", host, err)
	}
	var held []objects.Key
	for _, claim := range all {
		if claim.Annotations[SelectedNode] == host && claim.Status.Phase == corev1.ClaimBound && objects.HasFinalizer(claim, claimFinalizer) {
			held = append(held, objects.KeyOf(claim))
		}
	}
	return held, nil
}
