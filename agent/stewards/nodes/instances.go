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

// awayPatience is for how long the hypervisor of a host must be away before its instances are
// marked: a host that has just booted, or whose agent was restarted, may say so of one that
// takes its time.
const awayPatience = time.Minute

// Instances tells of the instances on dead hosts, and on hosts whose hypervisor is away, that
// their state is not known. It relies on the Nodes that a Watcher marks, and so on the same
// two witnesses, or on what the host itself says of its hypervisor.
//
// The host itself reports instances that run, and replaces the mark when it, or its
// hypervisor, returns. For
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
	// hypervisors is since when those of hosts have been there or away, as this host has seen
	// it, by the names of their Nodes.
	hypervisors stewards.Sightings[transition]
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
			stewards.WatchFor(d.Cache, "the instances on it, when it or its hypervisor dies or returns", i.onNode),
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

// onNode names the instances of a Node that was marked as dead or whose hypervisor is away, or
// no longer.
func (i *Instances) onNode(change objects.Change[*corev1.Node]) []objects.Key {
	if change.New == nil {
		i.hypervisors.Forget(change.Old().Name)
		return nil
	}
	if !change.IsNew() && silentPart(change.Old()) == silentPart(change.New) {
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

// silentPart says who would know of a Node's guests and does not answer: its host, if the Node
// is marked as that of a dead one, or the hypervisor of the host; empty if both answer.
func silentPart(node *corev1.Node) string {
	switch {
	case objects.NodeCondition(node, corev1.NodeReady).Status == corev1.ConditionUnknown:
		return "host " + node.Name
	case objects.NodeCondition(node, objects.NodeHypervisorReady).Status == corev1.ConditionFalse:
		return "the hypervisor of host " + node.Name
	}
	return ""
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
	switch silent, marked := silentPart(node), machine.IsOutOfReach(vmi); {
	case silent != "" && !marked:
		if wait := max(patience-i.sinceReady(vmi, now), i.awayWait(node, now)); wait > 0 {
			return stewards.Result{RequeueAfter: wait}, nil
		}
		// The sighting stays: the host's clock may say that the next report is old.
		machine.MarkOutOfReach(next, silent, now)
	case silent != "":
		machine.MarkOutOfReach(next, silent, now) // a host came back without its hypervisor
	case marked && !vmi.IsRunning():
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

// awayWait is how long the hypervisor of a Node's host must still be away before the instances
// there are marked; 0 if it is the host that is dead.
func (i *Instances) awayWait(node *corev1.Node, now time.Time) time.Duration {
	hypervisor := objects.NodeCondition(node, objects.NodeHypervisorReady)
	if hypervisor.Status != corev1.ConditionFalse {
		return 0
	}
	since := hypervisor.LastTransitionTime.Time
	return awayPatience - i.hypervisors.Age(node.Name, transition{node.UID, hypervisor.Status, since.Unix()}, now.Sub(since))
}
