package nodes

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
)

// patience is how long an instance that has just become ready, or not, is left alone
// though its Node is marked as dead. A host that returns reports its instances and its
// Node at about the same time, and whichever comes first must not be contradicted.
const patience = 15 * time.Second

// Instances tells of the instances on dead hosts that their state is not known. It
// relies on the Nodes that a Watcher marks, and so on the same two witnesses.
//
// The host itself reports instances that run, and replaces the mark when it returns. For
// an instance that does not run yet it may have nothing to report for long, so the mark
// is taken off here.
type Instances struct {
	deps   stewards.Deps
	vmis   *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	nodes  *objects.Informer[*corev1.Node]
	engine *stewards.Controller
	// ready is since when instances on dead hosts have been ready or not, as this host has
	// seen it.
	ready stewards.Sightings[transition]
}

// NewInstances returns a loop that is not yet running.
func NewInstances(d stewards.Deps) (*Instances, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	i := &Instances{deps: d, vmis: objects.For[*kubevirtv1.VirtualMachineInstance](d.Cache), nodes: objects.For[*corev1.Node](d.Cache)}
	i.engine, err = stewards.New(d, stewards.Steward{
		Name: "instance-watcher", Scope: "virtualmachineinstances", Workers: 2,
		Reconciler: stewards.ReconcilerFunc(i.reconcile),
		Moved:      func(key stewards.Key) { i.ready.Forget(key.String()) },
		Inputs: []stewards.Input{
			stewards.Watch[*kubevirtv1.VirtualMachineInstance](d.Cache),
			stewards.WatchFor(d.Cache, "the instances on it, when it dies or returns", i.onNode),
			stewards.ReadsClaims(d.Claims),
		},
		Outputs: []stewards.Output{stewards.WritesFields[*kubevirtv1.VirtualMachineInstance]("status.conditions")},
	})
	return i, err
}

// Declaration returns the steward with its inputs and outputs.
func (i *Instances) Declaration() stewards.Steward { return i.engine.Declaration() }

// Run watches until ctx ends.
func (i *Instances) Run(ctx context.Context) error { return i.engine.Run(ctx) }

// onNode names the instances of a Node that was marked as dead, or is no longer.
func (i *Instances) onNode(change objects.Change[*corev1.Node]) []objects.Key {
	if change.New == nil || !change.IsNew() && isDead(change.Old()) == isDead(change.New) {
		return nil
	}
	var keys []objects.Key
	for _, claim := range i.deps.Claims.OnHost(change.New.Name) {
		if claim.Host == change.New.Name {
			keys = append(keys, objects.Key{Namespace: claim.Namespace, Name: claim.Name})
		}
	}
	return keys
}

// isDead reports whether the Node is marked as that of a dead host.
func isDead(node *corev1.Node) bool {
	return objects.NodeCondition(node, corev1.NodeReady).Status == corev1.ConditionUnknown
}

func (i *Instances) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	vmi, ok := i.vmis.Get(key)
	if !ok || vmi.IsFinal() {
		i.ready.Forget(key.String())
		return stewards.Result{}, nil
	}
	claim, claimed := i.deps.Claims.Instance(vmi.UID)
	if !claimed {
		return stewards.Result{}, nil
	}
	node, ok := i.nodes.Get(objects.Key{Name: claim.Host})
	if !ok {
		return stewards.Result{}, nil
	}
	next, now := vmi.DeepCopy(), i.deps.Clock.Now()
	switch dead, marked := isDead(node), machine.IsOutOfReach(vmi); {
	case dead && !marked:
		if wait := patience - i.sinceReady(vmi, now); wait > 0 {
			return stewards.Result{RequeueAfter: wait}, nil
		}
		// The sighting stays: the host's clock may say that the next report is old.
		machine.MarkOutOfReach(next, claim.Host, now)
	case !dead && marked && !vmi.IsRunning():
		machine.SetCondition(next, machine.NotRunningYet(), now)
	}
	tx := i.deps.NewTx()
	tx.Update(vmi, next)
	tx.Unchanged(node)
	if _, err := tx.Commit(ctx, i.deps.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("mark instance %s: %w", key, err)
	}
	return stewards.Result{}, nil
}

// sinceReady is the time since the instance became ready, or ceased to be.
func (i *Instances) sinceReady(vmi *kubevirtv1.VirtualMachineInstance, now time.Time) time.Duration {
	ready := machine.Condition(vmi, kubevirtv1.VirtualMachineInstanceReady)
	if ready == nil {
		return patience
	}
	since := ready.LastTransitionTime.Time
	return i.ready.Age(objects.KeyOf(vmi).String(), transition{vmi.UID, ready.Status, since.Unix()}, now.Sub(since))
}
