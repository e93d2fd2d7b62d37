package operation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// errLost reports that this host no longer owns the operation, or that the
// operation no longer exists.
var errLost = errors.New("the operation belongs to another host")

// run is one attempt of this host at an operation.
type run struct {
	controller *Controller
	key        stewards.Key
	steps      []Step
	left       func(ctx context.Context, op *Object) (string, error) // may be nil
	// renewed is when the last write began that renewed the lease, by this process. Others
	// count from the moment when they see that write, which is later. Only takeOver and
	// then holdLease use it.
	renewed time.Time

	// writing has an entry while the status is written, by a step or by the renewal of
	// the lease: neither waits for the other longer than its context lasts.
	writing chan struct{}
	// mu guards the fields below, which both write.
	mu     sync.Mutex
	spec   *Object                      // as it was taken over
	status meshv1alpha1.OperationStatus // as it is to be
	cancel bool                         // as it was last read
	dirty  bool                         // there is progress to write
}

// carryOut takes the operation over and does its steps.
func (r *run) carryOut(ctx context.Context, op *Object) error {
	if err := r.takeOver(ctx, op); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	ended := make(chan struct{})
	defer close(ended)
	wg.Go(func() { r.holdLease(ctx, ended, cancel) })
	err := r.doSteps(ctx)
	if cause := context.Cause(ctx); errors.Is(cause, errLost) {
		return errLost
	}
	return err
}

// takeOver makes this host the owner and writes the steps of the plan into the
// status.
func (r *run) takeOver(ctx context.Context, op *Object) error {
	next := op.DeepCopy()
	owner := &meshv1alpha1.OperationOwner{Host: r.controller.host, Epoch: 1, Renewed: metav1.NewMicroTime(r.controller.deps.Clock.Now())}
	if op.Status.Owner != nil {
		owner.Epoch = op.Status.Owner.Epoch + 1
	}
	next.Status.Owner, next.Status.Phase = owner, meshv1alpha1.OperationRunning
	if next.Status.Started == nil {
		next.Status.Started = r.controller.now()
	}
	known := map[string]meshv1alpha1.OperationStep{}
	for _, s := range op.Status.Steps {
		known[s.Name] = s
	}
	next.Status.Steps = make([]meshv1alpha1.OperationStep, len(r.steps))
	for i, s := range r.steps {
		next.Status.Steps[i] = meshv1alpha1.OperationStep{Name: s.Name, Phase: meshv1alpha1.StepPending}
		if have, ok := known[s.Name]; ok {
			next.Status.Steps[i] = have
		}
	}
	r.renewed = time.Now()
	if err := r.controller.storeStatus(ctx, op, next); err != nil {
		return fmt.Errorf("take the operation over: %w", err)
	}
	r.spec, r.status, r.cancel = next.DeepCopy(), next.Status, next.Spec.Cancel
	return nil
}

// doSteps carries out the steps that are not done, and ends the operation.
func (r *run) doSteps(ctx context.Context) error {
	for i, step := range r.steps {
		cancelled, err := r.beginStep(ctx, i)
		switch {
		case err != nil:
			return err
		case cancelled:
			return r.undoSteps(ctx)
		case r.phase(i) == meshv1alpha1.StepDone:
			continue
		}
		err = step.Do(ctx, func(done, total int64) { r.reportProgress(i, done, total) })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var permanent permanentError
		switch {
		case errors.As(err, &permanent):
			return r.fail(ctx, i, err)
		case err != nil:
			told := r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
				s.Steps[i].Message = err.Error()
				s.Message, s.Fault = fmt.Sprintf("%s: %v", step.Name, err), kinds.OperationFault(err)
			})
			if told != nil {
				return told
			}
			return fmt.Errorf("%s: %w", step.Name, err)
		}
		r.finishStep(i)
	}
	return r.end(ctx, meshv1alpha1.OperationSucceeded)
}

// end ends the operation, and says what it leaves to do.
func (r *run) end(ctx context.Context, phase meshv1alpha1.OperationPhase) error {
	left, err := r.leftToDo(ctx)
	if err != nil {
		return fmt.Errorf("look what is left to do: %w", err)
	}
	return r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
		s.Phase, s.Message, s.Fault, s.Ended = phase, left, nil, r.controller.now()
	})
}

// fail ends the operation with the error of step i, and says what it leaves to do.
func (r *run) fail(ctx context.Context, i int, why error) error {
	message := why.Error()
	left, err := r.leftToDo(ctx)
	if err != nil {
		r.controller.deps.Logger.Warn("an operation has failed, and nobody is told what it leaves to do", "operation", r.key.Name, "err", err)
	}
	if left != "" {
		message += "; " + left
	}
	return r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
		s.Steps[i].Phase, s.Steps[i].Message, s.Steps[i].Ended = meshv1alpha1.StepFailed, why.Error(), r.controller.now()
		s.Phase, s.Message, s.Ended = meshv1alpha1.OperationFailed, message, r.controller.now()
		s.Fault = kinds.OperationFault(why)
	})
}

// leftToDo returns what the operation, with the steps that are done now, leaves to do.
func (r *run) leftToDo(ctx context.Context) (string, error) {
	if r.left == nil {
		return "", nil
	}
	r.mu.Lock()
	op := r.spec.DeepCopy()
	r.status.DeepCopyInto(&op.Status)
	r.mu.Unlock()
	return r.left(ctx, op)
}

// beginStep writes that the step has begun and, in the same write, that the step
// before it is done. It reports whether the operation was cancelled; a
// cancelled operation begins no step.
func (r *run) beginStep(ctx context.Context, i int) (cancelled bool, err error) {
	if r.phase(i) != meshv1alpha1.StepDone {
		err = r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
			if !r.cancel && s.Steps[i].Phase != meshv1alpha1.StepRunning {
				s.Steps[i].Phase, s.Steps[i].Started = meshv1alpha1.StepRunning, r.controller.now()
			}
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancel, err
}

// finishStep notes that the step is done, and what it did. It is written with the next step.
func (r *run) finishStep(i int) {
	note := ""
	if r.steps[i].Note != nil {
		note = r.steps[i].Note()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.status.Steps[i]
	s.Phase, s.Message, s.Ended = meshv1alpha1.StepDone, note, r.controller.now()
	r.status.Message, r.status.Fault = "", nil
}

func (r *run) phase(i int) meshv1alpha1.OperationStepPhase {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Steps[i].Phase
}

// reportProgress notes progress of a step, which holdLease writes.
func (r *run) reportProgress(i int, done, total int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.status.Steps[i]
	if s.Done != done || s.Total != total {
		s.Done, s.Total, r.dirty = done, total, true
	}
}

// undoSteps undoes the steps that are done and can be undone, the last step
// first, and ends the operation.
func (r *run) undoSteps(ctx context.Context) error {
	for i := len(r.steps) - 1; i >= 0; i-- {
		phase := r.phase(i)
		began := phase == meshv1alpha1.StepDone || phase == meshv1alpha1.StepRunning
		if !began || r.steps[i].Undo == nil {
			continue
		}
		if err := r.steps[i].Undo(ctx); err != nil {
			return fmt.Errorf("undo %s: %w", r.steps[i].Name, err)
		}
		err := r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
			s.Steps[i].Phase, s.Steps[i].Ended = meshv1alpha1.StepUndone, r.controller.now()
		})
		if err != nil {
			return err
		}
	}
	return r.end(ctx, meshv1alpha1.OperationCancelled)
}

// writeStatus changes the status and stores it if this host still owns the
// operation. It also reads the spec, where a cancellation may have been
// requested meanwhile.
func (r *run) writeStatus(ctx context.Context, change func(*meshv1alpha1.OperationStatus)) error {
	select {
	case r.writing <- struct{}{}:
		defer func() { <-r.writing }()
	case <-ctx.Done():
		return fmt.Errorf("write the progress: %w", ctx.Err())
	}
	for {
		op, err := objects.Get[*Object](ctx, r.controller.deps.Store, r.key, raftstore.ReadOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return errLost
		case err != nil:
			return fmt.Errorf("read the operation: %w", err)
		}
		next, err := r.changed(op, change)
		if err == nil {
			err = r.controller.storeStatus(ctx, op, next)
		}
		switch {
		case err == nil || errors.Is(err, errLost):
			return err
		case !apierrors.IsConflict(err):
			return fmt.Errorf("write the progress: %w", err)
		}
	}
}

// changed changes the status, and returns the operation with it, or errLost if this host
// does not own the operation as it was read.
func (r *run) changed(op *Object, change func(*meshv1alpha1.OperationStatus)) (*Object, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if owner := op.Status.Owner; owner == nil || owner.Host != r.status.Owner.Host || owner.Epoch != r.status.Owner.Epoch {
		return nil, errLost
	}
	r.cancel = op.Spec.Cancel
	change(&r.status)
	r.dirty = false
	next := op.DeepCopy()
	r.status.DeepCopyInto(&next.Status)
	return next, nil
}

// holdLease renews the lease and writes progress until ended is closed. When the lease has
// run out, because the writes fail or this host stood still, or the operation has another
// owner, holdLease ends the steps with errLost.
func (r *run) holdLease(ctx context.Context, ended <-chan struct{}, lost context.CancelCauseFunc) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	for {
		expiry := r.renewed.Add(lease - takeoverMargin)
		attempt, cancel := context.WithDeadline(ctx, expiry)
		select {
		case <-ended:
			cancel()
			return
		case <-attempt.Done():
		case <-ticker.C:
		}
		err := r.renewLease(attempt)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errLost) || err != nil && !time.Now().Before(expiry):
			lost(errLost)
			return
		}
	}
}

// renewLease writes progress, and renews the lease with it or when half of it is over.
func (r *run) renewLease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, progressInterval)
	defer cancel()
	begun, renews := time.Now(), false
	err := r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
		if renews = r.dirty || begun.Sub(r.renewed) >= lease/2; renews {
			s.Owner.Renewed = metav1.NewMicroTime(r.controller.deps.Clock.Now())
		}
	})
	if err == nil && renews {
		r.renewed = begun
	}
	return err
}
