package executor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
	"virtmesh/raftstore"
)

// maxPlans bounds how many plans one reconciliation makes. The longest sequence, a
// prepared start that finds its claim renewed, takes five.
const maxPlans = 8

// localRead reads this host's own replica, which may lag.
var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// run is one reconciliation of one instance: the situation, and what its steps
// pass to each other. The function plan makes all decisions.
type run struct {
	situation
	// nics are the network cards to start the guest with. warnings name the parts of
	// the specification that this host can only approximate.
	nics     nicsByName
	warnings []string
	result   stewards.Result
	// failed is why the guest did not start in this reconciliation.
	failed error
}

// Reconcile implements stewards.Reconciler.
func (e *Executor) Reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	vmi, exists := e.Instances.Get(key)
	current := hypervisor.Ref{Namespace: key.Namespace, Name: key.Name}
	if exists {
		current = domain.Ref(vmi)
	} else {
		vmi = nil
	}
	domain, err := e.domainOf(ctx, current)
	if err != nil {
		return stewards.Result{}, err
	}
	if domain == nil && e.preparations.of(current.UID) == nil {
		// Before a start and after an end, an older instance of the same name may still
		// have a domain here.
		if err := e.findTraces(ctx, key); err != nil {
			return stewards.Result{}, err
		}
	}
	for _, ref := range e.traces.of(key) {
		if ref == current {
			continue
		}
		if _, err := e.carryOutPlans(ctx, &run{situation: situation{ref: ref, instance: vmi}}); err != nil {
			return stewards.Result{}, err
		}
	}
	return e.carryOutPlans(ctx, &run{situation: situation{ref: current, instance: vmi, logs: e.logs.has(key)}})
}

// findTraces adds to traces the owner of each domain that has the instance's name.
func (e *Executor) findTraces(ctx context.Context, key stewards.Key) error {
	domains, err := e.Hypervisor.List(ctx)
	if err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	for _, domain := range domains {
		if keyOf(domain.Owner.Ref) == key {
			e.traces.addInstance(domain.Owner.Ref)
		}
	}
	return nil
}

// carryOutPlans makes and carries out plans until one has been carried out to its end.
func (e *Executor) carryOutPlans(ctx context.Context, r *run) (stewards.Result, error) {
	r.host = e.Host
	for range maxPlans {
		if err := e.readSituation(ctx, r); err != nil {
			return stewards.Result{}, err
		}
		steps := plan(r.situation)
		e.Logger.Debug("planned", "instance", r.ref.String(), "uid", r.ref.UID, "plan", steps.String())
		again, err := e.carryOutSteps(ctx, r, steps)
		if err != nil {
			return stewards.Result{}, err
		}
		if !again {
			return r.result, r.failed
		}
	}
	return stewards.Result{}, fmt.Errorf("%s: reconcile: none of %d plans in a row could be completed", r.ref, maxPlans)
}

// carryOutSteps carries out the steps in order. again says that a new plan is needed.
func (e *Executor) carryOutSteps(ctx context.Context, r *run, steps Plan) (again bool, err error) {
	for _, step := range steps {
		if e.interrupt != nil {
			if err := e.interrupt(step); err != nil {
				return false, err
			}
		}
		switch step.Act {
		case ActLookAgain:
			return true, nil
		case ActAskMesh:
			return true, e.askMesh(ctx, r)
		}
		err := e.carryOutStep(ctx, r, step)
		switch {
		case err == nil:
		case errors.Is(err, errReplan):
			return true, nil
		case step.BestEffort && ctx.Err() == nil && !errors.Is(err, hypervisor.ErrUnavailable):
			e.Logger.Warn("a step failed, and the plan goes on", "instance", r.ref.String(), "step", step.String(), "err", err)
		default:
			return false, err
		}
	}
	return false, nil
}

// errReplan says that a step found that the plan no longer fits the situation.
var errReplan = errors.New("plan again")

// carryOutStep carries out one step.
func (e *Executor) carryOutStep(ctx context.Context, r *run, step Step) error {
	if step.Act.needsCertainty() {
		if err := e.confirmMesh(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", r.ref, step, err)
		}
	}
	switch step.Act {
	case ActDropPreparation:
		return e.dropPreparation(ctx, r)
	case ActPrepareVolumes:
		e.traces.addInstance(r.ref)
		return e.preparations.beginPreparation(r.instance, r.claim.Epoch)
	case ActAwaitPreparation:
		r.result.Pending = true
	case ActConnectNetwork:
		return e.connectNetwork(ctx, r)
	case ActDefineStart:
		return e.defineStart(ctx, r)
	case ActReport:
		return e.report(ctx, r)
	case ActReportFailure:
		return e.reportFailure(ctx, r)
	case ActCommitEnd:
		r.failed = nil // the final phase's message reports it
		return e.commitEnd(ctx, r, step.End)
	case ActForget:
		e.forgetInstance(r.ref)
	case ActRemoveLogs:
		return e.logs.removeLogs(keyOf(r.ref))
	case ActWait:
		r.result.RequeueAfter = step.After
	case ActRefuse:
		return fmt.Errorf("%s: %s", r.ref, step.Why)
	default:
		return e.changeDomain(ctx, r, step)
	}
	return nil
}

// confirmMesh returns once the state that the plan was made from is certainly the mesh's.
func (e *Executor) confirmMesh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	return e.Confirm(ctx)
}

// changeDomain carries out a step that acts on the domain, its volumes or its addresses.
func (e *Executor) changeDomain(ctx context.Context, r *run, step Step) error {
	var err error
	switch step.Act {
	case ActLimitMemory:
		err = e.Hypervisor.LimitMemory(ctx, r.ref, machine.MemoryLimit(&r.instance.Spec, true))
		if !errors.Is(err, hypervisor.ErrUnavailable) {
			e.limits.noteTry(r.ref.UID)
		}
	case ActResume:
		err = e.Hypervisor.Resume(ctx, r.ref)
	case ActThaw:
		_, err = e.startThaw(r.ref, "a guest's file systems were frozen, and are thawed so that it can shut down")
	case ActRequestShutdown:
		err = e.Hypervisor.Shutdown(ctx, r.ref)
	case ActRecordShutdown:
		e.shutdowns.noteRequest(r.ref.UID, r.now)
		err = e.Hypervisor.SetRecord(ctx, r.ref, recordShutdown, formatShutdown(r.now, e.BootTime()))
	case ActRecordEnd:
		err = e.recordEnd(ctx, r, step.End)
	case ActCutPower:
		err = e.Hypervisor.Destroy(ctx, r.ref)
	case ActReleaseAddresses:
		err = e.Network.Release(r.ref)
	case ActRemoveVolumes:
		err = e.Volumes.Remove(ctx, r.ref)
	case ActUndefine:
		// The domain itself says what outlives it: its instance may be gone.
		owner := r.domain.Owner
		err = e.Hypervisor.Undefine(ctx, r.ref, hypervisor.UndefineOptions{KeepNVRAM: owner.KeepNVRAM, KeepTPM: owner.KeepTPM})
	default:
		err = errors.New("no such step")
	}
	if errors.Is(err, hypervisor.ErrNotFound) || errors.Is(err, hypervisor.ErrNotRunning) {
		err = nil // the step's goal is already reached
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w", step.Act, r.ref, err)
	}
	return nil
}

// readSituation fills in the situation as this host sees it: claim, domain, preparation.
func (e *Executor) readSituation(ctx context.Context, r *run) (err error) {
	r.now = e.now()
	uid := r.ref.UID
	if !r.confirmed {
		if err := e.readClaim(ctx, r, localRead); err != nil {
			return err
		}
	}
	domain, err := e.domainOf(ctx, r.ref)
	if err != nil {
		return err
	}
	r.domain, r.found, r.asked, r.recorded = hypervisor.Domain{}, domain != nil, time.Time{}, nil
	if domain != nil {
		e.traces.addInstance(r.ref)
		r.domain = *domain
		r.asked, r.recorded = readRecords(*domain, r.now, e.BootTime())
		if at := e.shutdowns.of(uid); !at.IsZero() {
			// This time has a monotonic reading, so setting the host's clock does not
			// change the grace period.
			r.asked = at
		}
	}
	if !r.active() {
		e.forwards.endGuest(uid)
	}
	r.work, r.workEpoch = e.preparations.progress(uid, func(err error) { e.failures.addFailure(uid, err, r.now); r.failed = err })
	r.failure = e.failures.of(uid)
	r.busy = len(e.starting) == cap(e.starting)
	r.unlimited = r.active() && r.domain.MemoryLimit == 0 && !e.limits.wasTried(uid)
	r.thawDue = IsFrozen(r.domain) && e.thaws.isDue(uid, e.BootTime())
	r.traces = e.traces.has(r.ref)
	r.withheld = false
	if r.claimed && !r.active() {
		r.withheld, err = e.isWithheld(ctx, r.claim)
	}
	return err
}

// isWithheld reports whether an instance must not start because of a recovery of the
// mesh: its claim is as the recovered copy had it, and another host is in quarantine. The
// instance may have ended here since, and may run there under another claim. The local
// replica is enough: no host is put into quarantine while agents run.
func (e *Executor) isWithheld(ctx context.Context, claim claims.Instance) (bool, error) {
	list, err := claims.ListQuarantine(ctx, e.Store, localRead)
	if err != nil {
		return false, fmt.Errorf("list the hosts in quarantine: %w", err)
	}
	return slices.ContainsFunc(list, func(q claims.Quarantine) bool { return q.Host != e.Host && claim.Revision <= q.Began }), nil
}

// domainOf returns the instance's domain, nil if it has none.
func (e *Executor) domainOf(ctx context.Context, ref hypervisor.Ref) (*hypervisor.Domain, error) {
	if ref.UID == "" {
		return nil, nil
	}
	domain, err := e.Hypervisor.Get(ctx, ref)
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at the domain of %s: %w", ref, err)
	}
	return &domain, nil
}

// askMesh reads instance and claim linearizably. It reads the claim last, because the
// claim gives the right to start a guest.
func (e *Executor) askMesh(ctx context.Context, r *run) error {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	key := objects.Key{Namespace: r.ref.Namespace, Name: r.ref.Name}
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, e.Store, key, raftstore.ReadOptions{})
	switch {
	case apierrors.IsNotFound(err):
		vmi = nil
	case err != nil:
		return fmt.Errorf("%w: ask the mesh about %s: %w", errUnconfirmed, key, err)
	}
	r.instance = vmi
	if err := e.readClaim(ctx, r, raftstore.ReadOptions{}); err != nil {
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	r.confirmed = true
	return nil
}

// errUnconfirmed says that instance and claim could not be read linearizably.
var errUnconfirmed = errors.New("this host's right to the instance is not confirmed")

// readClaim reads the claim of the instance.
func (e *Executor) readClaim(ctx context.Context, r *run, o raftstore.ReadOptions) (err error) {
	r.claim, r.claimed = claims.Instance{}, false
	if r.ref.UID == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	r.claim, r.claimed, err = claims.GetInstance(ctx, e.Store, uidOf(r.ref), o)
	if err != nil {
		return fmt.Errorf("read the claim of %s: %w", r.ref, err)
	}
	return nil
}

// commit writes a transaction within meshTimeout.
func (e *Executor) commit(ctx context.Context, tx *objects.Tx) error {
	ctx, cancel := context.WithTimeout(ctx, meshTimeout)
	defer cancel()
	_, err := tx.Commit(ctx, e.Store)
	return err
}
