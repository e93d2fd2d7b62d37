package nodes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// Config describes a Watcher.
type Config struct {
	// Store and Cache are the agent's. Required.
	Store objects.Store
	Cache *objects.Cache
	// Members tells who is alive. Required.
	Members stewards.Members
	// Recorder writes events. Required.
	Recorder *objects.Recorder
	// Stewardship spreads the nodes over the hosts. Nil: all are handled.
	Stewardship *stewards.Stewardship
	// Settle is how long after a change of the membership, and after the start,
	// the loop waits before it calls anyone dead: an agent that has just
	// started knows nobody yet.
	Settle time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. May be nil.
	Registerer prometheus.Registerer
}

// DefaultConfig returns the settings to start from.
func DefaultConfig() Config {
	return Config{Settle: 5 * time.Second}
}

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	if c.Store == nil || c.Cache == nil || c.Members == nil || c.Recorder == nil || c.Logger == nil {
		return errors.New("node watcher: Store, Cache, Members, Recorder and Logger are required")
	}
	if c.Settle < 0 {
		return errors.New("node watcher: Settle is negative")
	}
	return nil
}

// Watcher marks the nodes of dead hosts.
type Watcher struct {
	cfg    Config
	nodes  *objects.Informer[*corev1.Node]
	engine *stewards.Controller

	mu      sync.Mutex
	missing map[string]time.Time // since when a host is not among the live
}

// New checks cfg and returns a watcher that is not yet running.
func New(cfg Config) (*Watcher, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	w := &Watcher{cfg: cfg, nodes: objects.For[*corev1.Node](cfg.Cache), missing: map[string]time.Time{}}
	engine := stewards.DefaultConfig()
	engine.Name, engine.Scope, engine.Workers = "node-watcher", "nodes", 2
	engine.Reconciler = stewards.ReconcilerFunc(w.reconcile)
	engine.Sources = []stewards.Source{w.nodes}
	engine.Stewardship = cfg.Stewardship
	engine.Logger, engine.Registerer = cfg.Logger, cfg.Registerer
	var err error
	w.engine, err = stewards.New(engine)
	return w, err
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	w.note()
	defer w.cfg.Members.Subscribe(func() {
		w.note()
		for _, key := range w.nodes.Keys() {
			w.engine.Enqueue(key)
		}
	})()
	return w.engine.Run(ctx)
}

// note remembers since when hosts are missing.
func (w *Watcher) note() {
	live := map[string]bool{}
	for _, name := range w.cfg.Members.Members() {
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
	w.note()
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
		return stewards.Result{}, nil
	}
	gone, missing := w.missingFor(key.Name)
	if !missing {
		return stewards.Result{}, nil
	}
	if gone < w.cfg.Settle {
		return stewards.Result{RequeueAfter: w.cfg.Settle - gone}, nil
	}
	next := node.DeepCopy()
	markUnreachable(next, time.Now())
	var tx objects.Tx
	tx.Update(node, next)
	if !tx.Empty() {
		w.cfg.Recorder.AddTo(&tx, node, corev1.EventTypeWarning, "NodeNotReady", "Host stopped answering")
	}
	if _, err := tx.Commit(ctx, w.cfg.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("mark node %s: %w", key.Name, err)
	}
	return stewards.Result{}, nil
}

// reasonUnknown is the reason of conditions that nobody can tell.
const reasonUnknown = "NodeStatusUnknown"

// markUnreachable says of a Node what its host can no longer say itself.
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
