package vm

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// plan is what a machine's run strategy asks for now.
type plan struct {
	start bool
	stop  bool
	// requestStart adds a start request, so that a new instance is created once
	// the failed one is gone.
	requestStart bool
	// runStrategy, if set, replaces the machine's.
	runStrategy kubevirtv1.VirtualMachineRunStrategy
	// retryAfter is when to reconcile again, for a start that has to wait.
	retryAfter time.Duration
	// strategy is the run strategy that was applied.
	strategy kubevirtv1.VirtualMachineRunStrategy
}

// decide applies the run strategy to a machine and its instance, which is nil
// if there is none. It is pure.
//
//	Always          there is an instance; one that ended is replaced
//	RerunOnFailure  one that failed is replaced, one that succeeded is removed
//	Once            there is an instance; one that ended stays
//	Manual          requests alone start and stop
//	Halted          there is no instance
func decide(vm *kubevirtv1.VirtualMachine, vmi *kubevirtv1.VirtualMachineInstance, now time.Time) (plan, error) {
	strategy, err := vm.RunStrategy()
	if err != nil {
		return plan{}, fmt.Errorf("spec.runStrategy: %w", err)
	}
	p := plan{strategy: strategy}
	stopAsked := vmi != nil && asksToStop(vm, vmi.UID)
	switch strategy {
	case kubevirtv1.RunStrategyAlways:
		p.stop = vmi != nil && (stopAsked || vmi.IsFinal())
		p.start = vmi == nil
	case kubevirtv1.RunStrategyRerunOnFailure:
		failed := vmi != nil && vmi.Status.Phase == kubevirtv1.Failed
		p.stop = stopAsked || vmi != nil && vmi.IsFinal()
		p.requestStart = failed && vmi.DeletionTimestamp == nil && !asksToStart(vm)
		// Without a request the machine starts only if this strategy was set
		// just now. Otherwise its guest has shut it down.
		p.start = vmi == nil && (asksToStart(vm) || vm.Status.RunStrategy != strategy)
	case kubevirtv1.RunStrategyOnce:
		p.stop = stopAsked
		p.start = vmi == nil
	case kubevirtv1.RunStrategyManual:
		p.stop = stopAsked
		p.start = vmi == nil && asksToStart(vm)
	case kubevirtv1.RunStrategyHalted:
		p.stop = vmi != nil
		if vmi == nil && asksToStart(vm) {
			// The machine is started paused, which only the request can
			// express.
			p.runStrategy = kubevirtv1.RunStrategyAlways
			p.start = true
		}
	default:
		return plan{}, fmt.Errorf("spec.runStrategy: %q is not supported", strategy)
	}
	if p.start {
		if wait := backoffLeft(vm, now); wait > 0 && strategy != kubevirtv1.RunStrategyManual {
			p.start, p.retryAfter = false, wait
		}
	}
	return p, nil
}

// recordStrategy records the strategy that was applied, so that a later
// reconciliation recognizes a new strategy. It does not record a new strategy
// before the start that this strategy asks for has happened.
func recordStrategy(vm *kubevirtv1.VirtualMachine, p plan) {
	if !p.start && p.retryAfter == 0 {
		vm.Status.RunStrategy = p.strategy
	}
}

func setRunStrategy(vm *kubevirtv1.VirtualMachine, strategy kubevirtv1.VirtualMachineRunStrategy) {
	if vm.Spec.Running != nil {
		running := strategy == kubevirtv1.RunStrategyAlways
		vm.Spec.Running = &running
		return
	}
	vm.Spec.RunStrategy = &strategy
}

// State change requests: the API appends them. The controller acts on the
// first, and drops it when it has been carried out.

// asksToStop reports whether the next request is to stop the instance.
func asksToStop(vm *kubevirtv1.VirtualMachine, uid types.UID) bool {
	reqs := vm.Status.StateChangeRequests
	return len(reqs) > 0 && reqs[0].Action == kubevirtv1.StopRequest && reqs[0].UID != nil && *reqs[0].UID == uid
}

// asksToStart reports whether the next request is to start.
func asksToStart(vm *kubevirtv1.VirtualMachine) bool {
	reqs := vm.Status.StateChangeRequests
	return len(reqs) > 0 && reqs[0].Action == kubevirtv1.StartRequest
}

// asksToStartPaused reports whether the next request is to start paused.
func asksToStartPaused(vm *kubevirtv1.VirtualMachine) bool {
	return asksToStart(vm) &&
		vm.Status.StateChangeRequests[0].Data[kubevirtv1.StartRequestDataPausedKey] == kubevirtv1.StartRequestDataPausedTrue
}

func requestStart(vm *kubevirtv1.VirtualMachine) {
	vm.Status.StateChangeRequests = append(slices.Clip(vm.Status.StateChangeRequests),
		kubevirtv1.VirtualMachineStateChangeRequest{Action: kubevirtv1.StartRequest})
}

// dropDoneRequests removes the requests that have been done: a stop whose
// instance is gone, and a start when there is an instance that runs.
//
// The instance that was read may be out of date: it may have ended since, and
// the request may have been made for that reason. So the transaction that drops
// a request requires that the instance has not changed since it was read.
func dropDoneRequests(t *turn) {
	vmi := t.was
	reqs := t.vm.Status.StateChangeRequests
	before := len(reqs)
	for len(reqs) > 0 {
		req := reqs[0]
		done := false
		switch req.Action {
		case kubevirtv1.StopRequest:
			done = vmi == nil || req.UID == nil || *req.UID != vmi.UID
		case kubevirtv1.StartRequest:
			done = vmi != nil && !vmi.IsFinal() && vmi.DeletionTimestamp == nil
		}
		if !done {
			break
		}
		reqs = reqs[1:]
	}
	if vmi != nil && len(reqs) < before {
		t.tx.Unchanged(vmi)
	}
	if len(reqs) == 0 {
		reqs = nil
	}
	t.vm.Status.StateChangeRequests = reqs
}

func withoutStart(reqs []kubevirtv1.VirtualMachineStateChangeRequest) []kubevirtv1.VirtualMachineStateChangeRequest {
	if len(reqs) > 0 && reqs[0].Action == kubevirtv1.StartRequest {
		reqs = reqs[1:]
	}
	if len(reqs) == 0 {
		return nil
	}
	return reqs
}
