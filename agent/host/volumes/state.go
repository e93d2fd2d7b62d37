package volumes

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
)

// States keeps on this host what the TPMs and the firmware of machines keep between
// instances, each for a claim.
type States interface {
	// Keep makes room for the state of the machine, for the claim with that UID.
	Keep(machine string, claim types.UID) error
	// KeptFor returns the machine whose state is kept here for the claim; empty if
	// there is none.
	KeptFor(claim types.UID) (machine string, err error)
	// LostTPM reports whether the machine's TPM has run for its claim and its state is gone.
	LostTPM(ctx context.Context, machine string) (bool, error)
	// Remove removes what is kept for the claim. It fails with hypervisor.ErrConflict
	// while the domain of the machine is defined.
	Remove(ctx context.Context, claim types.UID) error
}

// holdState makes room on this host for what the machine's TPM and firmware keep, and
// records in the machine's claim that it is here. It does nothing for a machine that
// keeps nothing.
func (p *Provisioner) holdState(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) error {
	name := machine.StateClaim(vmi.Name, &vmi.Spec)
	if name == "" {
		return nil
	}
	claim, err := p.usableClaim(ctx, vmi.Namespace, name, name)
	if err == nil {
		err = p.holdStateFor(ctx, vmi, claim)
	}
	var told *executor.VolumeError
	if err != nil && !errors.As(err, &told) {
		err = &executor.VolumeError{Volume: name, Reason: reasonVolume, Err: err}
	}
	return err
}

// holdStateFor is holdState with the machine's claim. Like a volume, state is begun once:
// if the claim is bound, what was kept is elsewhere or lost, and a new TPM in its place
// would hide that from the guest's owner.
func (p *Provisioner) holdStateFor(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, claim *corev1.PersistentVolumeClaim) error {
	if !isStateClaim(claim) {
		return fmt.Errorf("claim %s has a volume: it cannot say where the state of a TPM and firmware is", claim.Name)
	}
	kept, err := p.States.KeptFor(claim.UID)
	if err != nil {
		return err
	}
	owner, bound := domain.Machine(vmi), claim.Status.Phase == corev1.ClaimBound
	switch {
	case bound && kept == "":
		return fmt.Errorf("claim %s is bound, but host %s does not hold the state of TPM and firmware that it stands for; "+
			"no new one is made in its place: delete the claim to start without the state", claim.Name, p.Host)
	case kept != "" && kept != owner:
		return fmt.Errorf("claim %s stands for the state of TPM and firmware of another machine; delete the claim, and the state with it, to start without it", claim.Name)
	}
	if bound && machine.KeepsTPM(&vmi.Spec) {
		if lost, err := p.States.LostTPM(ctx, owner); err != nil {
			return err
		} else if lost {
			return fmt.Errorf("claim %s is bound, but host %s has lost the state of the TPM that it stands for; "+
				"no new one is made in its place: put the state back, or delete the claim to start without it", claim.Name, p.Host)
		}
	}
	taken := claim.DeepCopy()
	p.recordState(taken)
	objects.AddFinalizer(taken, claimFinalizer)
	if err := p.attach(ctx, &objects.Tx{}, vmi, claim, taken); err != nil || bound {
		return err
	}
	if err := p.States.Keep(owner, claim.UID); err != nil {
		return err
	}
	return p.bindState(ctx, taken)
}

// isStateClaim reports whether the claim stands for state of a TPM or firmware, and not
// for a volume.
func isStateClaim(claim *corev1.PersistentVolumeClaim) bool {
	return machine.MayBeStateClaim(claim.Name) && claim.Annotations[poolAnnotation] == "" && claim.Spec.VolumeName == ""
}

// recordState sets the annotation that says where the state is.
func (p *Provisioner) recordState(claim *corev1.PersistentVolumeClaim) {
	if claim.Annotations == nil {
		claim.Annotations = map[string]string{}
	}
	claim.Annotations[SelectedNode] = p.Host
}

// bindState writes that the claim is Bound: there is room for the state.
func (p *Provisioner) bindState(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	bound := claim.DeepCopy()
	bound.Status.Phase = corev1.ClaimBound
	bound.Status.AccessModes = bound.Spec.AccessModes
	var tx objects.Tx
	tx.Update(claim, bound)
	if _, err := tx.Commit(ctx, p.Store); err != nil {
		return fmt.Errorf("bind claim %s: %w", claim.Name, err)
	}
	return nil
}

// reconcileState is Reconcile for a claim that stands for state of a TPM or firmware. It
// records again where the state is if that was lost, and removes the state with its claim
// once no instance uses it.
func (p *Provisioner) reconcileState(ctx context.Context, claim *corev1.PersistentVolumeClaim) (stewards.Result, error) {
	home := claim.Annotations[SelectedNode]
	if home == "" {
		kept, err := p.States.KeptFor(claim.UID)
		if kept == "" || err != nil {
			return stewards.Result{}, err
		}
		found := claim.DeepCopy()
		p.recordState(found)
		var tx objects.Tx
		tx.Update(claim, found)
		return stewards.Result{}, p.commit(ctx, &tx, claim)
	}
	switch {
	case claim.DeletionTimestamp == nil:
		return stewards.Result{}, nil
	case home != p.Host:
		return p.reclaimFor(ctx, claim, home)
	}
	if used, err := p.inUse(ctx, claim); used || err != nil {
		return stewards.Result{RequeueAfter: instanceGoneInterval}, err
	}
	if err := p.confirmMesh(ctx); err != nil {
		return stewards.Result{}, fmt.Errorf("claim %s: %w", objects.KeyOf(claim), err)
	}
	err := p.States.Remove(ctx, claim.UID)
	if errors.Is(err, hypervisor.ErrConflict) {
		// The instance has ended, and its domain is about to go.
		return stewards.Result{RequeueAfter: instanceGoneInterval}, nil
	}
	if err != nil {
		p.Events.Event(claim, corev1.EventTypeWarning, reasonFailedDelete, err.Error())
		return stewards.Result{}, fmt.Errorf("claim %s: %w", objects.KeyOf(claim), err)
	}
	return stewards.Result{}, p.removeFinalizer(ctx, claim)
}
