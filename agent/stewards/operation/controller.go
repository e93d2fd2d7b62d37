package operation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// Object is the kind that this package works on.
type Object = meshv1alpha1.Operation

// Step is one step of a plan.
type Step struct {
	// Name says for people what the step does: "release volumes".
	Name string
	// Do carries the step out. It is idempotent, ends when ctx does, and may
	// call report as often as it likes.
	Do func(ctx context.Context, report func(done, total int64)) error
	// Undo undoes the step after a cancellation. It is idempotent. Nil means
	// that the step cannot be undone.
	Undo func(ctx context.Context) error
	// Note says for people what Do has done; it is kept with the step. Nil, or an empty
	// note: its name says all.
	Note func() string
}

// Act is the implementation of one type of operation.
type Act struct {
	// Plan returns the steps of an operation. Every host that takes the
	// operation over gets the same steps.
	Plan func(op *Object) []Step
	// Left says for people what an operation leaves for them to do when it ends, after
	// the steps that its status has as done, also if it was cancelled or failed. Nil, or an
	// empty text: nothing. It changes nothing.
	Left func(ctx context.Context, op *Object) (string, error)
	// Outputs are what the steps write, as a steward declares it.
	Outputs []stewards.Output
}

// Acts are the acts that a host knows, by type.
type Acts map[meshv1alpha1.OperationType]Act

// permanentError is a failure that another attempt cannot repair.
type permanentError struct{ error }

// Unwrap returns the reason.
func (e permanentError) Unwrap() error { return e.error }

// Permanent marks err as a failure that another attempt cannot repair. Such an
// error ends the operation.
func Permanent(err error) error { return permanentError{err} }

const (
	// lease is how long an owner may be silent before another takes over.
	lease = 20 * time.Second
	// takeoverMargin is how long before that an owner ends its steps: they take a moment to
	// end, and the clocks of two hosts do not run at quite the same rate.
	takeoverMargin = lease / 10
	// progressInterval is the least time between two writes that only report
	// progress or renew the lease.
	progressInterval = 5 * time.Second
	// timeout ends one attempt at an operation. The next attempt continues with
	// the first step that is not done.
	timeout = time.Hour
	// maxBackoff is the longest pause between two attempts. An attempt that fails
	// writes the owner, and the error if it is another one. So an operation that
	// never succeeds costs at most twelve writes an hour. A change of its spec, such
	// as a cancellation, ends the pause.
	maxBackoff = 10 * time.Minute
	// keep is how long an operation that has ended is kept.
	keep = 24 * time.Hour
)

// Controller is the control loop of operations.
type Controller struct {
	host   string
	deps   stewards.Deps
	acts   Acts
	ops    *objects.Informer[*Object]
	engine *stewards.Controller
	// seen are the leases as this host has seen them, by the operations' names.
	seen stewards.Sightings[holding]
}

// holding is who has an operation, since which renewal of the lease.
type holding struct {
	uid     types.UID
	host    string
	epoch   int64
	renewed int64 // on the owner's clock, in microseconds
	ended   bool
}

// holdingOf returns who has an operation.
func holdingOf(op *Object) holding {
	h := holding{uid: op.UID, ended: op.Status.Phase.Final()}
	if owner := op.Status.Owner; owner != nil {
		h.host, h.epoch, h.renewed = owner.Host, owner.Epoch, owner.Renewed.UnixMicro()
	}
	return h
}

// New returns a controller that is not yet running. host is the name under
// which it owns operations; acts are the types of operation that it can carry
// out.
func New(d stewards.Deps, host string, acts Acts) (*Controller, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	c := &Controller{
		host: host, deps: d, acts: acts, ops: objects.For[*Object](d.Cache),
	}
	c.engine, err = stewards.New(d, stewards.Steward{
		Name: "operation", Scope: "operations", Workers: 8, Timeout: timeout, MinBackoff: time.Second, MaxBackoff: maxBackoff,
		Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Moved:      func(key stewards.Key) { c.seen.Forget(key.Name) },
		Inputs:     []stewards.Input{stewards.Watch[*Object](d.Cache)},
		Outputs:    acts.outputs(),
	})
	return c, err
}

// outputs are the outputs of the loop itself and those of the steps that it
// carries out.
func (a Acts) outputs() []stewards.Output {
	all := []stewards.Output{
		stewards.WritesStatus[*Object](),
		stewards.Writes[*Object](stewards.Delete),
		stewards.WritesEvents(),
	}
	for _, name := range slices.Sorted(maps.Keys(a)) {
		all = append(all, a[name].Outputs...)
	}
	return all
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run carries operations out until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.engine.Run(ctx) }

// reconcile carries one operation out, or waits while another host holds its
// lease.
func (c *Controller) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	op, ok := c.ops.Get(key)
	if !ok {
		c.seen.Forget(key.Name)
		return stewards.Result{}, nil
	}
	if op.Status.Phase.Final() {
		return c.expireOperation(ctx, op)
	}
	if wait := c.othersLease(op); wait > 0 {
		return stewards.Result{RequeueAfter: wait}, nil
	}
	act, ok := c.acts[op.Spec.Type]
	switch {
	case !ok && op.Spec.Cancel:
		return c.cancelUnknown(ctx, op)
	case !ok:
		// A host of a later version made this operation. A host that knows its
		// type may become the steward.
		return stewards.Result{RequeueAfter: time.Minute}, nil
	}
	r := &run{controller: c, key: key, steps: act.Plan(op), left: act.Left, writing: make(chan struct{}, 1)}
	err := r.carryOut(ctx, op)
	if errors.Is(err, errLost) {
		c.deps.Logger.Info("another host goes on with the operation", "operation", key.Name)
		return stewards.Result{RequeueAfter: lease}, nil
	}
	if err != nil {
		return stewards.Result{}, fmt.Errorf("operation %s: %w", key.Name, err)
	}
	return stewards.Result{RequeueAfter: keep}, nil
}

// cancelUnknown ends an operation of a type that this host does not know. No host
// carries it out now, and this host cannot undo what another may have done.
func (c *Controller) cancelUnknown(ctx context.Context, op *Object) (stewards.Result, error) {
	next := op.DeepCopy()
	next.Status.Phase, next.Status.Fault, next.Status.Ended = meshv1alpha1.OperationCancelled, nil, c.now()
	next.Status.Message = ""
	if op.Status.Owner != nil {
		next.Status.Message = fmt.Sprintf("%s does not know operations of the type %s: the steps that were done are not undone", c.host, op.Spec.Type)
	}
	if err := c.storeStatus(ctx, op, next); err != nil {
		return stewards.Result{}, fmt.Errorf("cancel operation %s: %w", op.Name, err)
	}
	return stewards.Result{RequeueAfter: keep}, nil
}

// storeStatus writes the status of next in place of that of op, with an event if the
// operation begins or ends with it.
func (c *Controller) storeStatus(ctx context.Context, op, next *Object) error {
	tx := c.deps.NewTx()
	tx.UpdateStatus(op, next)
	if tx.Empty() {
		return nil
	}
	if op.Status.Started == nil && next.Status.Started != nil {
		message := fmt.Sprintf("host %s begins %s of %s", c.host, op.Spec.Type, op.Spec.Target)
		if op.Spec.RequestedBy != "" {
			message += ", requested by " + op.Spec.RequestedBy
		}
		c.deps.Recorder.AddTo(&tx, op, corev1.EventTypeNormal, "Started", message)
	}
	if op.Status.Ended == nil && next.Status.Ended != nil {
		kind, message := corev1.EventTypeNormal, fmt.Sprintf("%s of %s has ended", op.Spec.Type, op.Spec.Target)
		if next.Status.Phase == meshv1alpha1.OperationFailed {
			kind = corev1.EventTypeWarning
		}
		if next.Status.Message != "" {
			message += ": " + next.Status.Message
		}
		c.deps.Recorder.AddTo(&tx, op, kind, string(next.Status.Phase), message)
	}
	_, err := tx.Commit(ctx, c.deps.Store)
	return err
}

// othersLease returns how long to wait for another host to renew its lease on
// the operation; zero if this host may carry it out. The clocks of two hosts
// are not compared; this host measures by its own clock how long the lease has
// not changed.
func (c *Controller) othersLease(op *Object) time.Duration {
	age := c.seen.Age(op.Name, holdingOf(op), 0)
	if owner := op.Status.Owner; owner == nil || owner.Host == c.host {
		return 0
	}
	return max(0, lease-age)
}

// expireOperation deletes an operation that ended long ago. Only if this host has not
// seen it end does it compare the time of the end, which the host that ended it has
// written, with its own clock. If these differ, the record disappears that much earlier,
// and nothing depends on the record of an operation that has ended.
func (c *Controller) expireOperation(ctx context.Context, op *Object) (stewards.Result, error) {
	ended := op.CreationTimestamp
	if op.Status.Ended != nil {
		ended = *op.Status.Ended
	}
	if wait := keep - c.seen.Age(op.Name, holdingOf(op), c.deps.Clock.Now().Sub(ended.Time)); wait > 0 {
		return stewards.Result{RequeueAfter: wait}, nil
	}
	tx := c.deps.NewTx()
	tx.Delete(op, objects.DeleteOptions{})
	_, err := tx.Commit(ctx, c.deps.Store)
	return stewards.Result{}, err
}

// now returns the time that is written into a status.
func (c *Controller) now() *metav1.Time {
	t := metav1.NewTime(c.deps.Clock.Now().Truncate(time.Second))
	return &t
}
