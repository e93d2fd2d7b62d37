package vm

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// Reasons of events and of the Failure condition.
const (
	reasonCreated      = "SuccessfulCreate"
	reasonCreateFailed = "FailedCreate"
	reasonDeleted      = "SuccessfulDelete"
	reasonConflict     = "InstanceNotOwned"
)

// turn is one reconciliation: the objects that were read, and those that will
// be written.
type turn struct {
	old *kubevirtv1.VirtualMachine         // as read
	vm  *kubevirtv1.VirtualMachine         // as it will be
	was *kubevirtv1.VirtualMachineInstance // as read, nil if there is none
	vmi *kubevirtv1.VirtualMachineInstance // as it will be, nil if it will not be there
	now time.Time
	tx  objects.Tx
	// gone says that the instance disappears with this transaction.
	gone bool
	// failure is shown in the Failure condition and then returned.
	failure error
}

// reconcile handles one machine.
func (c *Controller) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	vm, ok := c.vms.Get(key)
	if !ok {
		c.runs.Forget(key.String())
		return stewards.Result{}, wrap(c.releaseAbandoned(ctx, key), "release the instance of", key)
	}
	t := &turn{old: vm, vm: vm.DeepCopy(), now: c.cfg.Clock.Now(), tx: c.cfg.NewTx()}
	vmi, err := c.instance(ctx, key)
	if err != nil {
		return stewards.Result{}, wrap(err, "reconcile", key)
	}
	t.was, t.vmi = vmi, vmi
	// Required even if only the instance is written: a decision made on an old
	// version of the machine must not take effect.
	t.tx.Unchanged(vm)
	var res stewards.Result
	switch {
	case vm.DeletionTimestamp != nil:
		if c.finalizeMachine(t) {
			_, err := t.tx.Commit(ctx, c.cfg.Store)
			return stewards.Result{}, wrap(err, "finalize", key)
		}
	case t.was != nil && !c.ownsInstance(t):
		if abandoned(t.was, t.vm.UID) {
			c.releaseInstance(t)
		}
		t.vmi = nil
		if !t.gone {
			t.failure = fmt.Errorf("instance %s exists and belongs to another object", key)
			c.reportFailure(t, reasonConflict)
		}
	default:
		objects.AddFinalizer(t.vm, kubevirtv1.VirtualMachineControllerFinalizer)
		res = c.driveInstance(ctx, t)
	}
	c.syncStatus(ctx, t)
	t.tx.Update(t.old, t.vm)
	if _, err := t.tx.Commit(ctx, c.cfg.Store); err != nil {
		if apierrors.IsForbidden(err) {
			err = errors.Join(err, c.reportRefusal(ctx, t, err))
		}
		return stewards.Result{}, wrap(err, "reconcile", key)
	}
	return res, t.failure
}

// reportRefusal shows why the transaction of a turn was refused, by a quota for example. Of the
// turn nothing happened.
func (c *Controller) reportRefusal(ctx context.Context, refused *turn, why error) error {
	t := &turn{old: refused.old, vm: refused.old.DeepCopy(), now: refused.now, tx: c.cfg.NewTx(), failure: why}
	c.reportFailure(t, reasonCreateFailed)
	t.tx.UpdateStatus(t.old, t.vm)
	_, err := t.tx.Commit(ctx, c.cfg.Store)
	return err
}

// instance returns the instance of the machine, nil if there is none. The two
// informers are not synchronized: one may show a machine that has just created
// its instance while the other does not show the instance yet. So an instance
// that the informer does not show is read from the store itself.
func (c *Controller) instance(ctx context.Context, key stewards.Key) (*kubevirtv1.VirtualMachineInstance, error) {
	if vmi, ok := c.vmis.Get(key); ok {
		return vmi, nil
	}
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, c.cfg.Store, key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return vmi, err
}

func wrap(err error, act string, key stewards.Key) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s virtual machine %s: %w", act, key, err)
}

// ownsInstance reports whether the instance belongs to the machine. It first
// adopts an instance without an owner.
func (c *Controller) ownsInstance(t *turn) bool {
	ref := metav1.GetControllerOf(t.was)
	if ref != nil {
		return ref.UID == t.vm.UID
	}
	if t.was.DeletionTimestamp != nil {
		return false
	}
	t.vmi = t.was.DeepCopy()
	t.vmi.OwnerReferences = append(t.vmi.OwnerReferences, ownerRef(t.vm))
	objects.AddFinalizer(t.vmi, kubevirtv1.VirtualMachineControllerFinalizer)
	return true
}

// driveInstance brings the instance in line with the run strategy.
func (c *Controller) driveInstance(ctx context.Context, t *turn) stewards.Result {
	again := noteFailures(t, c.runFor(t), c.cfg.BackoffMin, c.cfg.BackoffMax)
	dropDoneRequests(t)
	c.ensureDataVolumes(t)
	c.ensureStateClaim(t)
	plan, err := decide(t.vm, t.was, t.now)
	if err != nil {
		t.failure = err
		c.reportFailure(t, reasonCreateFailed)
		return stewards.Result{}
	}
	if plan.requestStart {
		requestStart(t.vm)
	}
	if plan.runStrategy != "" {
		setRunStrategy(t.vm, plan.runStrategy)
	}
	recordStrategy(t.vm, plan)
	switch {
	case plan.stop && t.was.DeletionTimestamp == nil:
		c.stopInstance(t)
	case plan.start && c.dataVolumesReady(t.vm):
		c.startInstance(ctx, t)
	default:
		c.keepInstance(ctx, t)
	}
	return stewards.Result{RequeueAfter: max(plan.retryAfter, again)}
}

// startInstance creates the instance.
func (c *Controller) startInstance(ctx context.Context, t *turn) {
	vmi, ok := c.prepared(ctx, t)
	if !ok {
		return
	}
	t.tx.Create(vmi)
	t.vmi = vmi
	t.vm.Status.StateChangeRequests = withoutStart(t.vm.Status.StateChangeRequests)
	if strategy, err := t.vm.RunStrategy(); err == nil {
		t.vm.Status.RunStrategy = strategy
	}
	c.cfg.Recorder.AddTo(&t.tx, t.old, corev1.EventTypeNormal, reasonCreated,
		"Started the virtual machine by creating the new virtual machine instance "+vmi.Name)
}

// prepared returns the instance that the machine describes now.
func (c *Controller) prepared(ctx context.Context, t *turn) (*kubevirtv1.VirtualMachineInstance, bool) {
	vmi, err := c.describeInstance(ctx, t.vm, t.now)
	if err != nil {
		t.failure = err
		c.reportFailure(t, reasonCreateFailed)
		return nil, false
	}
	return vmi, true
}

// describeInstance returns the instance that a machine describes, complete with
// all that Prepare adds and every default.
func (c *Controller) describeInstance(ctx context.Context, vm *kubevirtv1.VirtualMachine, now time.Time) (*kubevirtv1.VirtualMachineInstance, error) {
	vmi := newInstance(vm)
	for _, prepare := range c.cfg.Prepare {
		if err := prepare(ctx, vm, vmi); err != nil {
			return nil, fmt.Errorf("prepare the instance: %w", err)
		}
	}
	machine.SetNewInstance(c.cfg.Defaults(), vmi, now)
	return vmi, nil
}

// stopInstance deletes the instance, which is not being deleted yet. An
// instance that has ended and that no host holds any more disappears at once.
// Any other disappears when its host has shut it down.
func (c *Controller) stopInstance(t *turn) {
	last := t.was.DeepCopy()
	if !heldByHost(t.was) {
		objects.RemoveFinalizer(last, kubevirtv1.VirtualMachineControllerFinalizer)
	}
	t.tx.Delete(last, objects.DeleteOptions{})
	if len(last.Finalizers) == 0 {
		t.vmi, t.gone = nil, true
	} else {
		now := metav1.NewTime(t.now.Truncate(time.Second))
		t.vmi = t.was.DeepCopy()
		t.vmi.DeletionTimestamp = &now
	}
	c.cfg.Recorder.AddTo(&t.tx, t.old, corev1.EventTypeNormal, reasonDeleted,
		"Stopped the virtual machine by deleting the virtual machine instance "+t.was.Name)
}

// keepInstance keeps the instance, if any, and copies to it the fields that may
// change while it runs. It releases an instance that is being deleted and that
// no host holds any more.
func (c *Controller) keepInstance(ctx context.Context, t *turn) {
	if t.was == nil {
		return
	}
	if t.was.DeletionTimestamp != nil {
		c.releaseInstance(t)
		return
	}
	if t.vmi == t.was {
		t.vmi = t.was.DeepCopy()
	}
	generation := strconv.FormatInt(t.vm.Generation, 10)
	made := t.was.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation]
	if !t.was.IsFinal() && made != "" && made != generation && !c.restartRequired(ctx, t.vm, t.was) {
		if want, ok := c.prepared(ctx, t); ok {
			propagate(want, t.vmi)
			t.vmi.Annotations[kubevirtv1.VirtualMachineGenerationAnnotation] = generation
		}
	}
	t.tx.Update(t.was, t.vmi)
}

// releaseInstance removes the controller's finalizer from an instance that is
// being deleted, once no host holds it.
func (c *Controller) releaseInstance(t *turn) {
	if t.was.DeletionTimestamp == nil || heldByHost(t.was) || !objects.HasFinalizer(t.was, kubevirtv1.VirtualMachineControllerFinalizer) {
		return
	}
	next := t.was.DeepCopy()
	objects.RemoveFinalizer(next, kubevirtv1.VirtualMachineControllerFinalizer)
	t.tx.Update(t.was, next)
	if len(next.Finalizers) == 0 {
		t.vmi, t.gone = nil, true
	}
}

// heldByHost reports whether a host, or placement, still has to remove its
// finalizer from the instance.
func heldByHost(vmi *kubevirtv1.VirtualMachineInstance) bool {
	return objects.HasFinalizer(vmi, kubevirtv1.VirtualMachineInstanceFinalizer)
}

// abandoned reports whether the instance carries the controller's finalizer for
// a machine that no longer exists: the instance was orphaned, or the finalizers
// of its machine were removed by force. uid is the uid of the present machine
// of that name, empty if there is none.
func abandoned(vmi *kubevirtv1.VirtualMachineInstance, uid types.UID) bool {
	ref := metav1.GetControllerOf(vmi)
	return ref == nil ||
		ref.Kind == kubevirtv1.VirtualMachineGroupVersionKind.Kind && ref.Name == vmi.Name && ref.UID != uid
}

// releaseAbandoned removes the controller's finalizer from an instance whose
// machine does not exist. No other loop removes it, so without this the
// instance and its namespace could never be deleted.
func (c *Controller) releaseAbandoned(ctx context.Context, key stewards.Key) error {
	vmi, ok := c.vmis.Get(key)
	if !ok || !abandoned(vmi, "") {
		return nil
	}
	// The informer of machines may be behind that of instances. The replica is
	// consistent: if it shows an instance, it also shows the machine that made
	// it.
	_, err := objects.Get[*kubevirtv1.VirtualMachine](ctx, c.cfg.Store, key, raftstore.ReadOptions{Consistency: raftstore.Local})
	if !apierrors.IsNotFound(err) {
		return err
	}
	t := &turn{was: vmi}
	c.releaseInstance(t)
	_, err = t.tx.Commit(ctx, c.cfg.Store)
	return err
}

// finalizeMachine ends the instance of a machine that is being deleted. It
// returns true when nothing is left to do but to commit.
func (c *Controller) finalizeMachine(t *turn) (done bool) {
	orphan := objects.HasFinalizer(t.old, metav1.FinalizerOrphanDependents)
	owned := t.was != nil && metav1.IsControlledBy(t.was, t.old)
	if owned && !orphan {
		if t.was.DeletionTimestamp == nil {
			c.stopInstance(t)
		} else {
			c.releaseInstance(t)
		}
		if !t.gone {
			return false
		}
	}
	if !objects.RemoveFinalizer(t.vm, kubevirtv1.VirtualMachineControllerFinalizer) {
		return true
	}
	t.tx.Update(t.old, t.vm)
	if t.was != nil && !t.gone {
		c.orphanInstance(t)
	}
	return true
}

// orphanInstance releases the instance from its machine. It removes the
// controller's finalizer, because the machine will not exist when the instance
// ends.
func (c *Controller) orphanInstance(t *turn) {
	next := t.was.DeepCopy()
	if objects.RemoveFinalizer(next, kubevirtv1.VirtualMachineControllerFinalizer) {
		t.tx.Update(t.was, next)
	}
}

// reportFailure shows a failure in the Failure condition and as an event.
func (c *Controller) reportFailure(t *turn, reason string) {
	machine.SetMachineCondition(t.vm, kubevirtv1.VirtualMachineCondition{
		Type: kubevirtv1.VirtualMachineFailure, Status: corev1.ConditionTrue, Reason: reason, Message: t.failure.Error(),
	}, t.now)
	c.cfg.Recorder.Event(t.old, corev1.EventTypeWarning, reason, t.failure.Error())
}
