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

	// mu guards the fields below, which both the step and the renewal of the
	// lease write.
	mu     sync.Mutex
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
	owner := &meshv1alpha1.OperationOwner{Host: r.controller.host, Epoch: 1, Renewed: metav1.NowMicro()}
	if op.Status.Owner != nil {
		owner.Epoch = op.Status.Owner.Epoch + 1
	}
	next.Status.Owner, next.Status.Phase = owner, meshv1alpha1.OperationRunning
	if next.Status.Started == nil {
		next.Status.Started = now()
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
	if err := r.controller.storeStatus(ctx, op, next); err != nil {
		return fmt.Errorf("take the operation over: %w", err)
	}
	r.status, r.cancel = next.Status, next.Spec.Cancel
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
			return r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
				s.Steps[i].Phase, s.Steps[i].Message, s.Steps[i].Ended = meshv1alpha1.StepFailed, err.Error(), now()
				s.Phase, s.Message, s.Ended = meshv1alpha1.OperationFailed, err.Error(), now()
				s.Fault = kinds.OperationFault(err)
			})
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
	return r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
		s.Phase, s.Message, s.Fault, s.Ended = meshv1alpha1.OperationSucceeded, "", nil, now()
	})
}

// beginStep writes that the step has begun and, in the same write, that the step
// before it is done. It reports whether the operation was cancelled; a
// cancelled operation begins no step.
func (r *run) beginStep(ctx context.Context, i int) (cancelled bool, err error) {
	if r.phase(i) != meshv1alpha1.StepDone {
		err = r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
			if !r.cancel && s.Steps[i].Phase != meshv1alpha1.StepRunning {
				s.Steps[i].Phase, s.Steps[i].Started = meshv1alpha1.StepRunning, now()
			}
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cancel, err
}

// finishStep notes that the step is done. It is written with the next step.
func (r *run) finishStep(i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.status.Steps[i]
	s.Phase, s.Message, s.Ended = meshv1alpha1.StepDone, "", now()
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
			s.Steps[i].Phase, s.Steps[i].Ended = meshv1alpha1.StepUndone, now()
		})
		if err != nil {
			return err
		}
	}
	return r.writeStatus(ctx, func(s *meshv1alpha1.OperationStatus) {
		s.Phase, s.Message, s.Fault, s.Ended = meshv1alpha1.OperationCancelled, "", nil, now()
	})
}

// writeStatus changes the status and stores it if this host still owns the
// operation. It also reads the spec, where a cancellation may have been
// requested meanwhile.
func (r *run) writeStatus(ctx context.Context, change func(*meshv1alpha1.OperationStatus)) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		op, err := objects.Get[*Object](ctx, r.controller.store, r.key, raftstore.ReadOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return errLost
		case err != nil:
			return fmt.Errorf("read the operation: %w", err)
		case op.Status.Owner == nil || op.Status.Owner.Host != r.status.Owner.Host || op.Status.Owner.Epoch != r.status.Owner.Epoch:
			return errLost
		}
		r.cancel = op.Spec.Cancel
		change(&r.status)
		next := op.DeepCopy()
		r.status.DeepCopyInto(&next.Status)
		err = r.controller.storeStatus(ctx, op, next)
		if err == nil {
			r.dirty = false
			return nil
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("write the progress: %w", err)
		}
	}
}

// holdLease renews the lease and writes progress until ended is closed. If the
// writes fail for the length of the lease, or the operation has another owner,
// holdLease ends the steps with errLost.
func (r *run) holdLease(ctx context.Context, ended <-chan struct{}, lost context.CancelCauseFunc) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	renewed := time.Now()
	for {
		select {
		case <-ended:
			return
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		attempt, cancel := context.WithTimeout(ctx, progressInterval)
		err := r.writeStatus(attempt, func(s *meshv1alpha1.OperationStatus) {
			if r.dirty || time.Since(renewed) >= lease/2 {
				s.Owner.Renewed = metav1.NowMicro()
			}
		})
		cancel()
		switch {
		case err == nil:
			renewed = r.lastRenewal()
		case errors.Is(err, errLost) || time.Since(renewed) >= lease:
			lost(errLost)
			return
		}
	}
}

// lastRenewal returns when the lease was renewed.
func (r *run) lastRenewal() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Owner.Renewed.Time
}
