package nodes

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// settle is how long the loop waits after a change of the membership, and after
// its start, before it treats a host as dead. An agent that has just started
// does not know the other members yet.
const settle = 5 * time.Second

// Witness is asked whether a host is dead that Members does not list.
type Witness interface {
	// Silent reports whether the leader of the replicated store hears nothing from the
	// host either.
	Silent(ctx context.Context, host string) (bool, error)
}

// Watcher marks the nodes of dead hosts. A host that gossip has lost but that answers
// the leader keeps its node up to date itself; two writers would contradict each other
// for as long as gossip is split.
type Watcher struct {
	deps    stewards.Deps
	members stewards.Members
	witness Witness
	nodes   *objects.Informer[*corev1.Node]
	engine  *stewards.Controller

	mu      sync.Mutex
	missing map[string]time.Time // when each missing host was first missing
	// ready is since when the Nodes have been ready or not, as this host has seen it.
	ready stewards.Sightings[transition]
}

// transition is what the ready condition of a Node, or of an instance, became, and when on
// the clock of the host that wrote it.
type transition struct {
	uid    types.UID
	status corev1.ConditionStatus
	at     int64
}

// askAgain is when the witness is asked again about a host that it still hears.
const askAgain = 10 * time.Second

// New returns a watcher that is not yet running. members lists the live hosts, and
// witness must confirm that one is dead.
func New(d stewards.Deps, members stewards.Members, witness Witness) (*Watcher, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	w := &Watcher{deps: d, members: members, witness: witness, nodes: objects.For[*corev1.Node](d.Cache), missing: map[string]time.Time{}}
	w.engine, err = stewards.New(d, stewards.Steward{
		Name: "node-watcher", Scope: "nodes", Workers: 2,
		Reconciler: stewards.ReconcilerFunc(w.reconcile),
		Moved:      func(key stewards.Key) { w.ready.Forget(key.Name) },
		Inputs: []stewards.Input{
			stewards.Watch[*corev1.Node](d.Cache),
			{What: "live members", Wakes: "every Node", Source: membership{w}},
		},
		Outputs: []stewards.Output{
			stewards.WritesFields[*corev1.Node]("status.conditions", "spec.taints", "metadata.labels"),
			stewards.WritesEvents(),
		},
	})
	return w, err
}

// Declaration returns the steward with its inputs and outputs.
func (w *Watcher) Declaration() stewards.Steward { return w.engine.Declaration() }

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	w.noteMissing()
	return w.engine.Run(ctx)
}

// membership is a Source that names all nodes when a host joins or is lost.
type membership struct{ *Watcher }

var _ stewards.Source = membership{}

// Subscribe implements stewards.Source.
func (m membership) Subscribe(fn func(stewards.Key)) (cancel func()) {
	return m.members.Subscribe(func() {
		m.noteMissing()
		for _, key := range m.nodes.Keys() {
			fn(key)
		}
	})
}

// Keys implements stewards.Source.
func (m membership) Keys() []stewards.Key { return nil }

// WaitForSync implements stewards.Source.
func (m membership) WaitForSync(ctx context.Context) error { return m.nodes.WaitForSync(ctx) }

// noteMissing records when each missing host was first missing.
func (w *Watcher) noteMissing() {
	live := map[string]bool{}
	for _, name := range w.members.Members() {
		live[name] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range w.missing {
		if live[name] {
			delete(w.missing, name)
		}
	}
	for _, key := range w.nodes.Keys() {
		if _, known := w.missing[key.Name]; !live[key.Name] && !known {
			w.missing[key.Name] = time.Now()
		}
	}
}

// missingFor returns how long the host has been missing.
func (w *Watcher) missingFor(name string) (time.Duration, bool) {
	w.noteMissing()
	w.mu.Lock()
	defer w.mu.Unlock()
	since, ok := w.missing[name]
	return time.Since(since), ok
}

func (w *Watcher) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	node, ok := w.nodes.Get(key)
	if !ok {
		w.mu.Lock()
		delete(w.missing, key.Name)
		w.mu.Unlock()
		w.ready.Forget(key.Name)
		return stewards.Result{}, nil
	}
	ready := objects.NodeCondition(node, corev1.NodeReady)
	now, since := w.deps.Clock.Now(), ready.LastTransitionTime.Time
	age := w.ready.Age(key.Name, transition{node.UID, ready.Status, since.Unix()}, now.Sub(since))
	gone, missing := w.missingFor(key.Name)
	if !missing {
		return stewards.Result{}, nil
	}
	if wait := markAfter(node, age) - gone; wait > 0 {
		return stewards.Result{RequeueAfter: wait}, nil
	}
	next := node.DeepCopy()
	markUnreachable(next, now)
	if equality.Semantic.DeepEqual(node, next) {
		return stewards.Result{}, nil
	}
	silent, err := w.witness.Silent(ctx, key.Name)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("mark node %s: %w", key.Name, err)
	}
	if !silent {
		return stewards.Result{RequeueAfter: askAgain}, nil
	}
	tx := w.deps.NewTx()
	tx.Update(node, next)
	if !tx.Empty() {
		w.deps.Recorder.AddTo(&tx, node, corev1.EventTypeWarning, "NodeNotReady", "Host stopped answering")
	}
	if _, err := tx.Commit(ctx, w.deps.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("mark node %s: %w", key.Name, err)
	}
	return stewards.Result{}, nil
}

// A host that comes and goes, because it has too little CPU time or a bad link, must not
// cost the mesh two writes each time: for unsteadyFor after its return it must be missing
// for unsteadyPatience before it is marked again.
const (
	unsteadyFor      = 10 * time.Minute
	unsteadyPatience = time.Minute
)

// markAfter returns how long the host of a Node must be missing before it is marked. The
// ready condition has been what it is for an age. Its time and that of the Node's creation
// come from one clock, that of its host.
func markAfter(n *corev1.Node, age time.Duration) time.Duration {
	ready := objects.NodeCondition(n, corev1.NodeReady)
	// Its host has written both times, and may have set its clock back in between.
	isNew := ready.LastTransitionTime.Sub(n.CreationTimestamp.Time).Abs() < settle
	if ready.Status == corev1.ConditionTrue && !isNew && age < unsteadyFor {
		return unsteadyPatience
	}
	return settle
}

// reasonUnknown is the reason of conditions whose state is not known.
const reasonUnknown = "NodeStatusUnknown"

// markUnreachable sets the conditions and the taint of a Node whose host can no
// longer update it.
func markUnreachable(n *corev1.Node, now time.Time) {
	for i := range n.Status.Conditions {
		c := n.Status.Conditions[i]
		c.Status, c.Reason, c.Message = corev1.ConditionUnknown, reasonUnknown, "Host stopped answering"
		objects.SetNodeCondition(n, c, now)
	}
	objects.SetNodeCondition(n, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, Reason: reasonUnknown, Message: "Host stopped answering"}, now)
	for _, t := range n.Spec.Taints {
		if t.Key == corev1.TaintNodeUnreachable {
			return
		}
	}
	stamp := metav1.NewTime(now.Truncate(time.Second))
	n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule, TimeAdded: &stamp})
	if n.Labels == nil {
		n.Labels = map[string]string{}
	}
	n.Labels[kubevirtv1.NodeSchedulable] = "false"
}
