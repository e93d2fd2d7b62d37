package executor

import (
	"context"
	"fmt"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// meshTimeout bounds each word with the mesh. On a host that is cut off every one
// would wait for a quorum, and with it the worker that other guests need.
const meshTimeout = 30 * time.Second

// ask reads an instance linearizably.
func (e *Executor) ask(ctx context.Context, key objects.Key) (*kubevirtv1.VirtualMachineInstance, error) {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	return objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, e.Store, key, raftstore.ReadOptions{})
}

// epoch reads the epoch of the instance's claim on this host.
func (e *Executor) epoch(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	epoch, err := e.Claims.Epoch(ctx, vmi)
	if err != nil {
		return 0, fmt.Errorf("read the claim of %s: %w", objects.KeyOf(vmi), err)
	}
	return epoch, nil
}

// commit writes a transaction.
func (e *Executor) commit(ctx context.Context, tx *objects.Tx) error {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	_, err := tx.Commit(ctx, e.Store)
	return err
}
