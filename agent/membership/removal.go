package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// removal removes a host that cannot be asked to leave from the mesh.
//
// A removal is a series of transactions, and any of them may fail: leadership moves, or
// the operator interrupts the command. So every step reads the store linearizably and
// does nothing if its work is already done. Running the removal again completes it.
type removal struct {
	host string
	// machine is the ID of the machine to remove; empty means whichever has the name.
	machine  string
	store    objects.Store
	hosts    *identity.Hosts
	replicas replicas
	// letGo finishes the deletion of volume claims whose volumes were on the host's
	// disks.
	letGo func(ctx context.Context, host string) error
	// tell writes an event about an instance that ends with the host.
	tell func(vmi *kubevirtv1.VirtualMachineInstance, reason, message string)
}

// replicas is the part of the replicated store's group that a removal uses.
type replicas interface {
	// RemoveReplica removes the replica of a host from the group; it is no error if
	// there is none.
	RemoveReplica(ctx context.Context, host string) error
	Status(ctx context.Context) raftstore.Status
}

// Step is one step of an operation. Steps are idempotent.
type Step struct {
	// Name describes the step to users.
	Name string
	// Do runs the step. A fault.Conflict or a fault.NotFound is final: running the step
	// again would return the same error.
	Do func(ctx context.Context, report func(done, total int64)) error
	// Note says what Do has done; nil if the name says all.
	Note func() string
}

// steps returns the steps that remove everything that the mesh holds of the host, in
// order. They rely on the administrator's statement that the host runs nothing.
func (r removal) steps() []Step {
	plain := func(do func(context.Context) error) func(context.Context, func(done, total int64)) error {
		return func(ctx context.Context, _ func(done, total int64)) error { return do(ctx) }
	}
	steps := []Step{
		{Name: stepBar, Do: plain(r.expelHost)},
		{Name: "remove the replica", Do: plain(r.removeReplica)},
		// Without capacity the rules refuse every new claim on the host, so the list of
		// instances that the next step reads is complete.
		{Name: "withdraw the capacity", Do: plain(r.withdrawCapacity)},
		{Name: "end the instances", Do: r.endInstances},
		{Name: "release the volumes", Do: plain(r.releaseVolumes)},
		{Name: "forget the Node and the subnet", Do: plain(r.forgetHost)},
	}
	for i, step := range steps[1:] {
		steps[i+1].Do = func(ctx context.Context, report func(done, total int64)) error {
			if err := r.mustBeBarred(ctx); err != nil {
				return err
			}
			return step.Do(ctx, report)
		}
	}
	return steps
}

// mustBeBarred returns a fault.Conflict if a machine has joined under the host's
// name since the host was barred. A removal may still run hours after it began, and
// by then the data under the name may belong to the new machine.
func (r removal) mustBeBarred(ctx context.Context) error {
	_, err := r.hosts.Get(ctx, r.host, raftstore.ReadOptions{})
	switch {
	case errors.Is(err, fault.NoHost):
		return nil
	case err != nil:
		return fmt.Errorf("check whether %s has joined again: %w", r.host, err)
	}
	return fault.New(fault.Conflict, "a machine has joined the mesh as %s since the old one was barred", r.host).About(r.host).
		WithRemedy("instances of the old machine that are left can be deleted; to remove the new one, stop its agent and remove the host again")
}

// runSteps runs all steps.
func (r removal) runSteps(ctx context.Context) error {
	if err := r.mustBeKnown(ctx); err != nil {
		return err
	}
	for _, step := range r.steps() {
		if err := step.Do(ctx, func(int64, int64) {}); err != nil {
			return err
		}
	}
	return nil
}

// mustBeKnown returns a fault.NotFound if the mesh holds nothing under the host's name.
func (r removal) mustBeKnown(ctx context.Context) error {
	_, err := r.hosts.Get(ctx, r.host, raftstore.ReadOptions{})
	if !errors.Is(err, fault.NoHost) {
		return err
	}
	// Either the host is unknown, or an earlier removal got at least this far.
	left, err := r.hasRemains(ctx)
	if err != nil {
		return fmt.Errorf("check what is left of %s: %w", r.host, err)
	}
	if !left {
		return fmt.Errorf("host %s: %w", r.host, fault.NotFound)
	}
	return nil
}

// expelHost bars the machine from the mesh and removes its record.
func (r removal) expelHost(ctx context.Context) error {
	err := retryConflicts(func() error { return r.hosts.ExpelMachine(ctx, r.host, r.machine) })
	if err != nil && !errors.Is(err, fault.NoHost) {
		return fmt.Errorf("remove the record of %s: %w", r.host, err)
	}
	return nil
}

func (r removal) removeReplica(ctx context.Context) error {
	if err := r.replicas.RemoveReplica(ctx, r.host); err != nil {
		return fmt.Errorf("remove the replica of %s: %w", r.host, err)
	}
	return nil
}

// hasRemains reports whether the mesh still holds anything under the host's name.
func (r removal) hasRemains(ctx context.Context) (bool, error) {
	expelled, err := r.hosts.Expelled(ctx, r.host)
	if err != nil || expelled {
		return expelled, err
	}
	status := r.replicas.Status(ctx)
	if slices.Contains(status.Voters, r.host) || slices.ContainsFunc(status.Peers, func(p raftstore.PeerStatus) bool { return p.ID == r.host }) {
		return true, nil
	}
	capacity, err := claims.GetCapacity(ctx, r.store, r.host, raftstore.ReadOptions{})
	if err != nil || capacity.Revision != 0 {
		return err == nil, err
	}
	node, err := r.getNode(ctx)
	if err != nil || node != nil {
		return err == nil, err
	}
	held, err := claims.OnHost(ctx, r.store, r.host, raftstore.ReadOptions{})
	return len(held) > 0, err
}

// endInstances sets the instances of the host to Failed and releases their claims and
// volumes.
func (r removal) endInstances(ctx context.Context, report func(done, total int64)) error {
	held, err := claims.OnHost(ctx, r.store, r.host, raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("list the claims on %s: %w", r.host, err)
	}
	for i, claim := range held {
		report(int64(i), int64(len(held)))
		if err := retryConflicts(func() error { return r.releaseInstance(ctx, claim.UID) }); err != nil {
			return fmt.Errorf("end instance %s of host %s: %w", claim.Key(), r.host, err)
		}
	}
	return nil
}

func (r removal) releaseVolumes(ctx context.Context) error {
	if err := r.letGo(ctx, r.host); err != nil {
		return fmt.Errorf("release the volume claims of %s: %w", r.host, err)
	}
	return nil
}

// releaseInstance releases the claims of one instance on the host, and its volumes. Its
// object, if it still exists, is already Failed.
func (r removal) releaseInstance(ctx context.Context, uid types.UID) error {
	claim, ok, err := claims.GetInstance(ctx, r.store, uid, raftstore.ReadOptions{})
	if err != nil || !ok || !slices.Contains(claim.Hosts(), r.host) {
		return err
	}
	var tx objects.Tx
	if claim.Host != r.host {
		// The instance runs on another host and was migrating to this one: it stays
		// where it is.
		claims.CancelReservation(&tx, claim)
		_, err := tx.Commit(ctx, r.store)
		return err
	}
	held, err := claims.VolumesOf(ctx, r.store, uid, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	for _, volume := range held {
		claims.Detach(&tx, volume, uid)
	}
	claims.Release(&tx, claim)
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, r.store, claim.Key(), raftstore.ReadOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	lives := err == nil && vmi.UID == uid
	if lives {
		tx.Update(vmi, failedInstance(vmi))
	}
	if _, err := tx.Commit(ctx, r.store); err != nil {
		return err
	}
	if lives {
		r.tell(vmi, "HostRemoved", "host "+r.host+" was removed from the mesh for good")
	}
	return nil
}

// failedInstance returns the instance in the state of one whose host is gone and which
// no host has claimed.
func failedInstance(instance *kubevirtv1.VirtualMachineInstance) *kubevirtv1.VirtualMachineInstance {
	next := instance.DeepCopy()
	if !next.IsFinal() {
		machine.EndWithHost(next, time.Now())
	}
	objects.RemoveFinalizer(next, kubevirtv1.VirtualMachineInstanceFinalizer)
	return next
}

// withdrawCapacity makes the store refuse new claims on the host, and forgets what its
// volumes take there.
func (r removal) withdrawCapacity(ctx context.Context) error {
	err := retryConflicts(func() error {
		capacity, err := claims.GetCapacity(ctx, r.store, r.host, raftstore.ReadOptions{})
		if err != nil || capacity.Revision == 0 {
			return err
		}
		var tx objects.Tx
		claims.Withdraw(&tx, capacity)
		_, err = tx.Commit(ctx, r.store)
		return err
	})
	if err == nil {
		err = claims.FreeSpacesOn(ctx, r.store, r.host)
	}
	if err != nil {
		return fmt.Errorf("withdraw the capacity of %s: %w", r.host, err)
	}
	return nil
}

// forgetHost deletes the Node and the subnet of a host that runs nothing, and ends its
// quarantine.
func (r removal) forgetHost(ctx context.Context) error {
	if err := retryConflicts(func() error { return r.endQuarantine(ctx) }); err != nil {
		return fmt.Errorf("end the quarantine of %s: %w", r.host, err)
	}
	err := retryConflicts(func() error {
		node, err := r.getNode(ctx)
		if err != nil || node == nil {
			return err
		}
		var tx objects.Tx
		tx.Delete(node, objects.DeleteOptions{})
		_, err = tx.Commit(ctx, r.store)
		return err
	})
	if err != nil {
		return fmt.Errorf("delete node %s: %w", r.host, err)
	}
	return retryConflicts(func() error { return releaseSubnet(ctx, r.store, r.host) })
}

func (r removal) endQuarantine(ctx context.Context) error {
	record, ok, err := r.quarantine(ctx)
	if err != nil || !ok {
		return err
	}
	var tx objects.Tx
	claims.EndQuarantine(&tx, record)
	_, err = tx.Commit(ctx, r.store)
	return err
}

// quarantine reads the record of a host that is in quarantine.
func (r removal) quarantine(ctx context.Context) (record claims.Quarantine, ok bool, err error) {
	list, err := claims.ListQuarantine(ctx, r.store, raftstore.ReadOptions{})
	if err != nil {
		return record, false, fmt.Errorf("list the hosts in quarantine: %w", err)
	}
	i := slices.IndexFunc(list, func(q claims.Quarantine) bool { return q.Host == r.host })
	if i < 0 {
		return record, false, nil
	}
	return list[i], true, nil
}

// getNode reads the host's Node; it returns nil if there is none.
func (r removal) getNode(ctx context.Context) (*corev1.Node, error) {
	node, err := objects.Get[*corev1.Node](ctx, r.store, objects.Key{Name: r.host}, raftstore.ReadOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return node, err
}

// conflictAttempts bounds how often a step is repeated after a conflict. Whoever won
// the race made progress, so a few attempts are enough.
const conflictAttempts = 10

// retryConflicts repeats act, which reads and then writes, while another writer wins
// the race.
func retryConflicts(act func() error) error {
	for attempt := 1; ; attempt++ {
		err := act()
		if !objects.LostRace(err) || attempt == conflictAttempts {
			return err
		}
	}
}
