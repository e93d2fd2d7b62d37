package executor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
)

// shutdownInterval is how often a guest that is to end is reminded: a guest
// that had not finished booting does not hear the first request.
const shutdownInterval = 5 * time.Second

// Executor reconciles the instances of this host. It is a
// controller.Reconciler, and a controller.Source of the keys of domains that
// changed.
type Executor struct {
	Config

	mu sync.Mutex
	// listeners are told the keys of domains that changed.
	listeners map[int]func(stewards.Key)
	nextID    int
	// ends are how guests ended whose end is not in the store yet, by UID. What
	// libvirt knew of it goes with the domain, before the mesh is told.
	ends map[string]end

	tasks        *tasks
	preparations *preparations
	agents       *agents
	traces       *traces
	logs         serialLogs
}

// end is how a guest ended.
type end struct {
	phase   kubevirtv1.VirtualMachineInstancePhase
	message string
}

var (
	_ stewards.Reconciler = (*Executor)(nil)
	_ stewards.Source     = (*Executor)(nil)
)

// New makes an executor. It does nothing before its controller runs; the caller
// closes it when that has ended.
func New(config Config) (*Executor, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	e := &Executor{
		Config: config, listeners: map[int]func(stewards.Key){}, ends: map[string]end{}, tasks: newTasks(), traces: newTraces(),
		logs: serialLogs{config.LogDir},
	}
	news := func(ref hypervisor.Ref) { e.notify(keyOf(ref)) }
	e.preparations = newPreparations(config, e.tasks, news)
	e.agents = newAgents(config.Hypervisor, e.tasks, news)
	owners, err := config.Volumes.Owners()
	if err != nil {
		return nil, fmt.Errorf("instance executor: look for volumes that were left: %w", err)
	}
	for _, ref := range owners {
		e.traces.add(ref)
	}
	return e, nil
}

// Close ends what the executor began and no worker waits for. Guests are not
// touched.
func (e *Executor) Close() {
	e.tasks.close()
	e.preparations.close()
}

// Reconcile implements controller.Reconciler.
func (e *Executor) Reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	vmi, exists := e.Instances.Get(key)
	if !exists || vmi.Status.NodeName != e.Host {
		if err := e.removeOrphans(ctx, key, ""); err != nil {
			return stewards.Result{}, err
		}
		return stewards.Result{}, e.removeLog(ctx, key)
	}
	if e.traces.others(refOf(vmi)) {
		if err := e.removeOrphans(ctx, key, string(vmi.UID)); err != nil {
			return stewards.Result{}, err
		}
	}
	domain, err := e.Hypervisor.Get(ctx, refOf(vmi))
	found := err == nil
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return stewards.Result{}, fmt.Errorf("look at the domain of %s: %w", key, err)
	}
	switch {
	case vmi.IsFinal():
		return stewards.Result{}, e.finish(ctx, vmi, vmi.Status.Phase, "")
	case vmi.DeletionTimestamp != nil:
		return e.stop(ctx, vmi, domain, found)
	case !found && vmi.Status.Phase == kubevirtv1.Running:
		return stewards.Result{}, e.finish(ctx, vmi, kubevirtv1.Failed, "the guest is gone: its host was switched off or its process was lost")
	case !found:
		return e.start(ctx, vmi)
	case !domain.State.Active():
		return stewards.Result{}, e.ended(ctx, vmi, domain)
	default:
		return e.report(ctx, vmi, domain)
	}
}

// ended handles a guest that is not running any more. Only one that shut down by
// itself has succeeded: RerunOnFailure brings the others back.
func (e *Executor) ended(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, domain hypervisor.Domain) error {
	switch {
	case domain.Reason.Success():
		return e.finish(ctx, vmi, kubevirtv1.Succeeded, "the guest shut down")
	case domain.Reason == hypervisor.ReasonUnknown:
		return e.finish(ctx, vmi, kubevirtv1.Failed, "the guest ended: its host was switched off or restarted")
	}
	return e.finish(ctx, vmi, kubevirtv1.Failed, fmt.Sprintf("the guest ended: %s", domain.Reason))
}

// removeOrphans stops and undefines the domains named key whose instance is
// gone or has another UID than keep, and removes what else this host has of
// such instances. The mesh is asked first.
func (e *Executor) removeOrphans(ctx context.Context, key stewards.Key, keep string) error {
	domains, err := e.Hypervisor.List(ctx)
	if err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	for _, domain := range domains {
		if keyOf(domain.Owner.Ref) == key {
			e.traces.add(domain.Owner.Ref)
		}
	}
	for _, ref := range e.traces.of(key) {
		if ref.UID == keep {
			continue
		}
		// Whoever claims it: here it does not start from this preparation.
		if err := e.preparations.drop(ctx, ref.UID); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		orphan, err := e.isOrphan(ctx, ref)
		if err != nil {
			return err
		}
		if orphan {
			e.Logger.Info("removing what is here of an instance that is gone or elsewhere", "instance", key.String(), "uid", ref.UID)
			if err := e.remove(ctx, ref); err != nil {
				return err
			}
		}
	}
	return nil
}

// isOrphan asks the mesh, not the local replica: a replica that lags must not
// cost a guest its life.
func (e *Executor) isOrphan(ctx context.Context, ref hypervisor.Ref) (bool, error) {
	key := objects.Key{Namespace: ref.Namespace, Name: ref.Name}
	vmi, err := e.ask(ctx, key)
	if apierrors.IsNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("ask the mesh about %s: %w", key, err)
	}
	return string(vmi.UID) != ref.UID || vmi.Status.NodeName != e.Host, nil
}

// remove ends a domain and drops everything this host keeps for it.
func (e *Executor) remove(ctx context.Context, ref hypervisor.Ref) error {
	if err := e.preparations.drop(ctx, ref.UID); err != nil {
		return fmt.Errorf("%s: %w", ref, err)
	}
	if err := e.Hypervisor.Destroy(ctx, ref); err != nil && !errors.Is(err, hypervisor.ErrNotFound) && !errors.Is(err, hypervisor.ErrNotRunning) {
		return fmt.Errorf("stop domain %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	if err := e.Hypervisor.Undefine(ctx, ref, hypervisor.UndefineOptions{}); err != nil {
		return fmt.Errorf("undefine domain %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	if err := e.Volumes.Remove(ctx, ref); err != nil {
		return fmt.Errorf("remove volumes of %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	if err := e.Network.Release(ref); err != nil {
		return fmt.Errorf("release addresses of %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	e.agents.forget(ref.UID)
	e.traces.forget(ref)
	return nil
}

// stop asks a guest to shut down, and cuts its power when its time is over.
func (e *Executor) stop(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, domain hypervisor.Domain, found bool) (stewards.Result, error) {
	if !found {
		return stewards.Result{}, e.finish(ctx, vmi, kubevirtv1.Succeeded, "stopped before its guest ran")
	}
	left := time.Until(vmi.DeletionTimestamp.Add(gracePeriod(vmi)))
	if !domain.State.Active() || left <= 0 {
		phase, message := kubevirtv1.Succeeded, "the guest was stopped"
		if domain.State.Active() {
			message = "the guest did not shut down in its grace period, so its power was cut"
			e.Events.Event(vmi, "Warning", "GracePeriodEnded", message)
		}
		return stewards.Result{}, e.finish(ctx, vmi, phase, message)
	}
	if domain.State == hypervisor.StatePaused {
		// A frozen guest cannot hear the request.
		if err := e.Hypervisor.Resume(ctx, refOf(vmi)); err != nil {
			return stewards.Result{}, fmt.Errorf("resume %s to shut it down: %w", objects.KeyOf(vmi), err)
		}
	}
	if err := e.Hypervisor.Shutdown(ctx, refOf(vmi)); err != nil && !errors.Is(err, hypervisor.ErrNotRunning) {
		e.Logger.Warn("the guest could not be asked to shut down", "instance", objects.KeyOf(vmi).String(), "err", err)
	}
	return stewards.Result{RequeueAfter: min(left, shutdownInterval)}, nil
}

func gracePeriod(vmi *kubevirtv1.VirtualMachineInstance) time.Duration {
	if seconds := vmi.Spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(*seconds) * time.Second
	}
	return defaultGracePeriod
}

// finish cleans up and then tells the mesh, in one transaction, that the
// instance ended and holds nothing on this host any more. When the mesh cannot
// be told it is called again, and the first account of the end holds: a guest
// that shut down has not failed because its domain is gone by then.
func (e *Executor) finish(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, phase kubevirtv1.VirtualMachineInstancePhase, message string) error {
	how := e.firstEnd(vmi, end{phase, message})
	if err := e.remove(ctx, refOf(vmi)); err != nil {
		return err
	}
	ended := vmi.DeepCopy()
	if !vmi.IsFinal() {
		now := time.Now()
		machine.SetPhase(ended, how.phase, now)
		machine.SetCondition(ended, machine.NewCondition(kubevirtv1.VirtualMachineInstanceReady, false, "GuestNotRunning", how.message), now)
		machine.DropConditions(ended, kubevirtv1.VirtualMachineInstanceAgentConnected, kubevirtv1.VirtualMachineInstancePaused)
		ended.Status.Interfaces = nil
	}
	objects.RemoveFinalizer(ended, kubevirtv1.VirtualMachineInstanceFinalizer)
	var tx objects.Tx
	tx.Update(vmi, ended)
	if err := e.Claims.Release(ctx, &tx, vmi); err != nil {
		return fmt.Errorf("release the claim of %s: %w", objects.KeyOf(vmi), err)
	}
	if !tx.Empty() {
		if !vmi.IsFinal() {
			e.Events.AddTo(&tx, vmi, eventType(how.phase), "Stopped", how.message)
		}
		if err := e.commit(ctx, &tx); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("report the end of %s: %w", objects.KeyOf(vmi), err)
		}
	}
	e.mu.Lock()
	delete(e.ends, string(vmi.UID))
	e.mu.Unlock()
	return nil
}

// firstEnd returns how the guest ended by the first account, and keeps it.
func (e *Executor) firstEnd(vmi *kubevirtv1.VirtualMachineInstance, account end) end {
	e.mu.Lock()
	defer e.mu.Unlock()
	if first, ok := e.ends[string(vmi.UID)]; ok {
		return first
	}
	e.ends[string(vmi.UID)] = account
	return account
}

func eventType(phase kubevirtv1.VirtualMachineInstancePhase) string {
	if phase == kubevirtv1.Failed {
		return corev1.EventTypeWarning
	}
	return corev1.EventTypeNormal
}

// refOf names the instance's domain.
func refOf(vmi *kubevirtv1.VirtualMachineInstance) hypervisor.Ref {
	return hypervisor.Ref{Namespace: vmi.Namespace, Name: vmi.Name, UID: string(vmi.UID)}
}
