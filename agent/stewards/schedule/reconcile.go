package schedule

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/schedule/place"
	machine "virtmesh/agent/vmi"
)

const (
	podScheduled = kubevirtv1.VirtualMachineInstanceConditionType(corev1.PodScheduled)

	reasonScheduled        = "Scheduled"
	reasonFailedScheduling = "FailedScheduling"
)

// reconcile handles one instance.
func (c *Controller) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	vmi, ok := c.vmis.Get(key)
	if !ok {
		c.stopWaiting(key)
		return stewards.Result{}, nil
	}
	if _, claimed := c.cfg.Claims.Instance(vmi.UID); claimed {
		c.stopWaiting(key)
		return stewards.Result{}, nil
	}
	switch {
	case vmi.DeletionTimestamp != nil || vmi.IsFinal():
		c.stopWaiting(key)
		return stewards.Result{}, wrap(c.releaseInstance(ctx, vmi), "let go of", key)
	case vmi.Status.NodeName != "":
		// The instance had a claim, which was released or is not visible here
		// yet. Placement must not start it again.
		c.stopWaiting(key)
		return stewards.Result{}, nil
	}
	res, err := c.place(ctx, vmi)
	return res, wrap(err, "place", key)
}

func wrap(err error, act string, key stewards.Key) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s instance %s: %w", act, key, err)
}

// releaseInstance removes the finalizer of an instance that has no claim, so
// that it can disappear.
func (c *Controller) releaseInstance(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) error {
	next := vmi.DeepCopy()
	if !objects.RemoveFinalizer(next, kubevirtv1.VirtualMachineInstanceFinalizer) {
		return nil
	}
	if !next.IsFinal() {
		machine.SetPhase(next, kubevirtv1.Failed, c.cfg.Clock.Now())
	}
	tx := c.cfg.NewTx()
	claims.RequireUnclaimed(&tx, vmi.UID)
	tx.Update(vmi, next)
	_, err := tx.Commit(ctx, c.cfg.Store)
	return err
}

// place finds a host for the instance and claims it.
func (c *Controller) place(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (stewards.Result, error) {
	c.figures.noteStart(objects.KeyOf(vmi), vmi.UID)
	if last, ok := c.predecessor(vmi); ok {
		return c.unschedulable(ctx, vmi, fmt.Errorf("host %s has not let go of the previous instance of this name yet", last.Host))
	}
	if message, err := c.quarantined(ctx, vmi); err != nil || message != "" {
		if err != nil {
			return stewards.Result{}, err
		}
		return c.unschedulable(ctx, vmi, errors.New(message))
	}
	request, err := c.prepareRequest(vmi)
	var problem *VolumeProblem
	switch {
	case errors.As(err, &problem):
		return c.holdForVolume(ctx, vmi, problem)
	case err != nil:
		return c.unschedulable(ctx, vmi, err)
	}
	return c.claimHost(ctx, vmi, request)
}

// claimHost chooses a host, asks it for an offer and writes the claim, until the
// claim is written or no host is left to try.
func (c *Controller) claimHost(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, request *place.Request) (stewards.Result, error) {
	for outdated := 0; len(request.Exclude) < c.cfg.MaxOffers; {
		choice, err := c.cfg.View.Decide(ctx, request)
		var unfit *place.Unschedulable
		switch {
		case errors.Is(err, errClaimed):
			c.stopWaiting(objects.KeyOf(vmi))
			return stewards.Result{}, nil
		case errors.As(err, &unfit):
			unfit.Disk = unfit.Disk || len(request.Exclude) > 0 && request.TakesDisk()
			return c.unschedulable(ctx, vmi, unfit)
		case err != nil:
			return stewards.Result{}, err
		}
		if reason := c.askForOffer(ctx, choice.Host, request); reason != "" {
			c.figures.count(resultRefusedOffer)
			c.cfg.View.Forget(request.UID)
			request.Avoid(choice.Host, reason)
			continue
		}
		err = c.claim(ctx, vmi, request, choice)
		if err == nil {
			c.figures.placed(objects.KeyOf(vmi))
			c.stopWaiting(objects.KeyOf(vmi))
			return stewards.Result{}, nil
		}
		c.figures.failed(err)
		c.cfg.View.Forget(request.UID)
		refused, ok := objects.Refused(err)
		switch {
		case claims.Outdated(err):
			if outdated++; outdated > maxOutdated {
				return stewards.Result{}, apierrors.NewConflict(instances, vmi.Name, err)
			}
			c.catchUp(ctx)
		case !ok:
			return stewards.Result{}, err
		default:
			// Another steward was faster: this view of the host is old.
			request.Avoid(choice.Host, refused.Reason)
		}
	}
	hosts := max(c.cfg.View.CountHosts(), len(request.Exclude))
	reasons := countReasons(request.Exclude)
	if others := hosts - len(request.Exclude); others > 0 {
		reasons["not asked yet"] = others
	}
	return c.unschedulable(ctx, vmi, &place.Unschedulable{Hosts: hosts, Reasons: reasons, Disk: request.TakesDisk()})
}

// instances names the resource in errors.
var instances = objects.KindFor[*kubevirtv1.VirtualMachineInstance]().GroupResource()

const (
	// maxOutdated is how often a decision is repeated at once because other
	// instances were placed meanwhile. Each repetition means that another
	// instance was placed, so the mesh makes progress.
	maxOutdated = 10
	// catchUpDelay is the wait until the view has seen these placements.
	catchUpDelay = 10 * time.Millisecond
)

func (c *Controller) catchUp(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(catchUpDelay):
	}
}

// predecessor returns the claim that another instance of the same name still
// holds. While it does, the store would refuse every claim of this one: its
// guest may be running.
func (c *Controller) predecessor(vmi *kubevirtv1.VirtualMachineInstance) (claims.Instance, bool) {
	last := c.cfg.Claims.Epoch(objects.KeyOf(vmi))
	if last.UID == vmi.UID {
		return claims.Instance{}, false
	}
	return c.cfg.Claims.Instance(last.UID)
}

func countReasons(byHost map[string]string) map[string]int {
	n := map[string]int{}
	for _, reason := range byHost {
		n[reason]++
	}
	return n
}

// prepareRequest prepares what the instance needs, its volumes included.
func (c *Controller) prepareRequest(vmi *kubevirtv1.VirtualMachineInstance) (*place.Request, error) {
	request, err := place.NewRequest(vmi, c.policy())
	if err != nil {
		return nil, err
	}
	return request, c.restrictToVolumes(vmi, request)
}

// restrictToVolumes restricts the request to the hosts that can reach the
// instance's volumes.
func (c *Controller) restrictToVolumes(vmi *kubevirtv1.VirtualMachineInstance, request *place.Request) error {
	for _, name := range machine.ClaimNames(&vmi.Spec) {
		at, err := c.cfg.Volumes.Locate(vmi.Namespace, name)
		if err != nil {
			return err
		}
		if at.Hosts != nil {
			request.KeepTo(at.Hosts, "could not reach volume "+name)
		}
		switch {
		case at.Unmade == nil:
		case c.hasSpace(vmi.Namespace, at):
			request.Volumes = append(request.Volumes, *at.Unmade)
		default:
			request.MakeVolume(*at.Unmade)
		}
	}
	name := machine.StateClaim(vmi.Name, &vmi.Spec)
	if name == "" {
		return nil
	}
	at, err := c.cfg.Volumes.Locate(vmi.Namespace, name)
	if at.Hosts != nil {
		request.KeepTo(at.Hosts, "did not have the state of its TPM and firmware, see PersistentVolumeClaim "+name)
	}
	return err
}

// claim writes claim and status together.
func (c *Controller) claim(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, request *place.Request, choice Choice) error {
	host := choice.Host
	next := vmi.DeepCopy()
	objects.AddFinalizer(next, kubevirtv1.VirtualMachineInstanceFinalizer)
	next.Labels = maps.Clone(next.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	next.Labels[kubevirtv1.NodeNameLabel] = host
	next.Status.NodeName = host
	machine.SetPhase(next, kubevirtv1.Scheduled, c.cfg.Clock.Now())
	machine.DropConditions(next, podScheduled, kubevirtv1.VirtualMachineInstanceSynchronized, kubevirtv1.VirtualMachineInstanceDataVolumesReady)
	tx := c.cfg.NewTx()
	placed := claims.Place(&tx, claims.Instance{
		Namespace: vmi.Namespace, Name: vmi.Name, UID: vmi.UID, Host: host, Resources: request.Resources,
	}, c.cfg.Claims.Epoch(objects.KeyOf(vmi)))
	c.takeSpace(&tx, placed, request.Volumes)
	claims.Depend(&tx, placed, choice.Regard, choice.Sight)
	tx.Update(vmi, next)
	c.cfg.Recorder.AddTo(&tx, vmi, corev1.EventTypeNormal, reasonScheduled,
		fmt.Sprintf("Successfully assigned %s to %s", objects.KeyOf(vmi), host))
	_, err := tx.Commit(ctx, c.cfg.Store)
	return err
}

// unschedulable says in the status why no host takes the instance, and waits.
func (c *Controller) unschedulable(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, why error) (stewards.Result, error) {
	c.figures.count(resultUnschedulable)
	var unfit *place.Unschedulable
	retry, message := c.countAttempt(objects.KeyOf(vmi), errors.As(why, &unfit) && unfit.Disk), why.Error()
	next := vmi.DeepCopy()
	machine.SetPhase(next, kubevirtv1.Scheduling, c.cfg.Clock.Now())
	machine.DropConditions(next, kubevirtv1.VirtualMachineInstanceSynchronized, kubevirtv1.VirtualMachineInstanceDataVolumesReady)
	machine.SetCondition(next, kubevirtv1.VirtualMachineInstanceCondition{
		Type: podScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: message,
	}, c.cfg.Clock.Now())
	return c.reportUnplaced(ctx, vmi, next, reasonFailedScheduling, message, retry)
}

// holdForVolume says in the status that a volume is missing or not ready, and
// waits.
func (c *Controller) holdForVolume(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance, problem *VolumeProblem) (stewards.Result, error) {
	c.figures.count(resultHeld)
	retry := c.countAttempt(objects.KeyOf(vmi), false)
	next := vmi.DeepCopy()
	machine.SetPhase(next, kubevirtv1.Pending, c.cfg.Clock.Now())
	machine.DropConditions(next, podScheduled)
	machine.SetCondition(next, kubevirtv1.VirtualMachineInstanceCondition{
		Type: kubevirtv1.VirtualMachineInstanceSynchronized, Status: corev1.ConditionFalse, Reason: problem.Reason, Message: problem.Message,
	}, c.cfg.Clock.Now())
	if problem.Reason == ReasonVolumeNotReady {
		machine.SetCondition(next, machine.NewCondition(kubevirtv1.VirtualMachineInstanceDataVolumesReady, false,
			kubevirtv1.VirtualMachineInstanceReasonNotAllDVsReady, problem.Message), c.cfg.Clock.Now())
	} else {
		machine.DropConditions(next, kubevirtv1.VirtualMachineInstanceDataVolumesReady)
	}
	return c.reportUnplaced(ctx, vmi, next, problem.Reason, problem.Message, retry)
}

// reportUnplaced writes a status that says why the instance is not placed, and
// an event, if the status has changed.
func (c *Controller) reportUnplaced(ctx context.Context, vmi, next *kubevirtv1.VirtualMachineInstance, reason, message string, retry time.Duration) (stewards.Result, error) {
	tx := c.cfg.NewTx()
	claims.RequireUnclaimed(&tx, vmi.UID)
	tx.UpdateStatus(vmi, next)
	if !tx.Empty() {
		c.cfg.Recorder.AddTo(&tx, vmi, corev1.EventTypeWarning, reason, message)
	}
	if _, err := tx.Commit(ctx, c.cfg.Store); err != nil {
		return stewards.Result{}, err
	}
	return stewards.Result{RequeueAfter: retry}, nil
}
