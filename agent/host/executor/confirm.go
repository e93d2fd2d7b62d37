package executor

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
)

// Why a start that was prepared does not go ahead.
var (
	// errNotOurs: the instance is gone, to be deleted, or was placed elsewhere.
	errNotOurs = errors.New("the instance is not to run on this host any more")
	// errUnconfirmed: the mesh cannot be asked, or the claim is another one.
	errUnconfirmed = errors.New("its right to run here is not confirmed")
)

// confirm asks the mesh, by linearizable reads, whether what the start was
// prepared for still holds. Between the first look and the last moment before
// the start an image may have been pulled for an hour: by then the instance may
// have been deleted, or this host been cut off, removed from the mesh and the
// instance started elsewhere.
func (e *Executor) confirm(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, epoch uint64) error {
	now, err := e.ask(ctx, objects.KeyOf(vmi))
	switch {
	case apierrors.IsNotFound(err):
		return errNotOurs
	case err != nil:
		return fmt.Errorf("%w: ask the mesh about %s: %w", errUnconfirmed, objects.KeyOf(vmi), err)
	case now.UID != vmi.UID, now.Status.NodeName != e.Host, now.DeletionTimestamp != nil, now.IsFinal():
		return errNotOurs
	}
	current, err := e.epoch(ctx, vmi)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	if current != epoch {
		return fmt.Errorf("%w: the claim of %s has epoch %d, the start was prepared under %d", errUnconfirmed, objects.KeyOf(vmi), current, epoch)
	}
	return nil
}

// abandon removes what was prepared for an instance that does not start here.
// One that is still this host's to end is left to the reconciliation that the
// change itself brings.
func (e *Executor) abandon(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) error {
	e.Logger.Info("a start is given up: the instance was deleted or placed elsewhere meanwhile", "instance", objects.KeyOf(vmi).String())
	orphan, err := e.isOrphan(ctx, refOf(vmi))
	if err != nil || !orphan {
		return err
	}
	return e.remove(ctx, refOf(vmi))
}
