// Package namespace runs the control loop that ends namespaces.
//
//	inputs   Namespace, all objects in a namespace that is being deleted
//	outputs  deletion of those objects; of the Namespace: status, and the
//	         finalizer "kubernetes" in its spec
//
// A namespace whose deletion was asked for keeps spec.finalizers until its
// content is gone. The loop asks for the deletion of everything in it, of every
// kind, and says in the conditions what is left and which finalizers hold it
// back. What other loops still add is found in the next round.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// Config describes the controller of namespaces.
type Config struct {
	// Store and Cache are the agent's. Required.
	Store objects.Store
	Cache *objects.Cache
	// Stewardship spreads the namespaces over the hosts. Nil: all are handled.
	Stewardship *stewards.Stewardship
	// Round is how long to wait for the content to go before looking again.
	Round time.Duration
	// Logger receives failures. Required.
	Logger *slog.Logger
	// Registerer receives the metrics. May be nil.
	Registerer prometheus.Registerer
}

// DefaultConfig returns the settings to start from.
func DefaultConfig() Config { return Config{Round: time.Second} }

// Validate reports what is missing or contradicts itself.
func (c Config) Validate() error {
	if c.Store == nil || c.Cache == nil || c.Logger == nil {
		return errors.New("namespace controller: Store, Cache and Logger are required")
	}
	if c.Round <= 0 {
		return errors.New("namespace controller: Round must be more than 0")
	}
	return nil
}

// Controller is the control loop of namespaces.
type Controller struct {
	cfg        Config
	namespaces *objects.Informer[*corev1.Namespace]
	engine     *stewards.Controller
}

// New checks cfg and returns a controller that is not yet running.
func New(cfg Config) (*Controller, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	c := &Controller{cfg: cfg, namespaces: objects.For[*corev1.Namespace](cfg.Cache)}
	engine := stewards.DefaultConfig()
	engine.Name, engine.Scope, engine.Workers = "namespace", "namespaces", 2
	engine.Reconciler = stewards.ReconcilerFunc(c.reconcile)
	engine.Sources = []stewards.Source{c.namespaces}
	engine.Stewardship = cfg.Stewardship
	engine.Logger, engine.Registerer = cfg.Logger, cfg.Registerer
	var err error
	c.engine, err = stewards.New(engine)
	return c, err
}

// Run handles namespaces until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.engine.Run(ctx) }

func (c *Controller) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	ns, ok := c.namespaces.Get(key)
	if !ok || ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return stewards.Result{}, nil
	}
	content, err := c.content(ctx, key.Name)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("list the content of namespace %s: %w", key.Name, err)
	}
	failure := c.empty(ctx, content)
	next := ns.DeepCopy()
	next.Status.Phase = corev1.NamespaceTerminating
	setConditions(next, content, failure, time.Now())
	if len(content) == 0 {
		next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	}
	var tx objects.Tx
	tx.Update(ns, next)
	if _, err := tx.Commit(ctx, c.cfg.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("update namespace %s: %w", key.Name, err)
	}
	if len(content) > 0 {
		return stewards.Result{RequeueAfter: c.cfg.Round}, nil
	}
	return stewards.Result{}, nil
}

// content returns everything in the namespace.
func (c *Controller) content(ctx context.Context, namespace string) ([]objects.Raw, error) {
	var content []objects.Raw
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	_, err := objects.ListRecords(ctx, c.cfg.Store, kinds.Root, local, func(rec raftstore.Record) error {
		if l, ok := kinds.ParseLocation(rec.Key); !ok || l.Key.Namespace != namespace {
			return nil
		}
		raw, err := objects.DecodeRaw(rec)
		if err != nil {
			return err
		}
		content = append(content, raw)
		return nil
	})
	return content, err
}

// batch is how many objects one transaction deletes.
const batch = 50

// empty asks for the deletion of the content that is not being deleted yet.
func (c *Controller) empty(ctx context.Context, content []objects.Raw) error {
	var failures []error
	todo := slices.DeleteFunc(slices.Clone(content), func(r objects.Raw) bool { return r.GetDeletionTimestamp() != nil })
	for part := range slices.Chunk(todo, batch) {
		if c.remove(ctx, part...) == nil {
			continue
		}
		// One object that has just changed fails the whole batch.
		for _, raw := range part {
			if err := c.remove(ctx, raw); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", describe(raw), err))
			}
		}
	}
	return errors.Join(failures...)
}

func (c *Controller) remove(ctx context.Context, objs ...objects.Raw) error {
	var tx objects.Tx
	for _, raw := range objs {
		raw.Unstructured = raw.DeepCopy()
		tx.DeleteRaw(raw)
	}
	_, err := tx.Commit(ctx, c.cfg.Store)
	return err
}

// describe names the resource of an object: "virtualmachines.kubevirt.io".
func describe(raw objects.Raw) string {
	l, _ := kinds.ParseLocation(raw.StoreKey)
	return l.Resource.String()
}

// setConditions says what is left, in the words of Kubernetes.
func setConditions(ns *corev1.Namespace, content []objects.Raw, failure error, now time.Time) {
	resources, finalizers := map[string]int{}, map[string]int{}
	for _, raw := range content {
		resources[describe(raw)]++
		for _, f := range raw.GetFinalizers() {
			finalizers[f]++
		}
	}
	setCondition(ns, now, corev1.NamespaceDeletionDiscoveryFailure, false, "ResourcesDiscovered", "All resources successfully discovered")
	setCondition(ns, now, corev1.NamespaceDeletionGVParsingFailure, false, "ParsedGroupVersions", "All legacy kube types successfully parsed")
	if failure != nil {
		setCondition(ns, now, corev1.NamespaceDeletionContentFailure, true, "ContentDeletionFailed", failure.Error())
	} else {
		setCondition(ns, now, corev1.NamespaceDeletionContentFailure, false, "ContentDeleted", "All content successfully deleted, may be waiting on finalization")
	}
	if len(resources) > 0 {
		setCondition(ns, now, corev1.NamespaceContentRemaining, true, "SomeResourcesRemain",
			"Some resources are remaining: "+count(resources, "%s has %d resource instances"))
	} else {
		setCondition(ns, now, corev1.NamespaceContentRemaining, false, "ContentRemoved", "All content successfully removed")
	}
	if len(finalizers) > 0 {
		setCondition(ns, now, corev1.NamespaceFinalizersRemaining, true, "SomeFinalizersRemain",
			"Some content in the namespace has finalizers remaining: "+count(finalizers, "%s in %d resource instances"))
	} else {
		setCondition(ns, now, corev1.NamespaceFinalizersRemaining, false, "ContentHasNoFinalizers", "All content-preserving finalizers finished")
	}
}

func count(n map[string]int, format string) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(n)) {
		parts = append(parts, fmt.Sprintf(format, name, n[name]))
	}
	return strings.Join(parts, ", ")
}

func setCondition(ns *corev1.Namespace, now time.Time, kind corev1.NamespaceConditionType, is bool, reason, message string) {
	c := corev1.NamespaceCondition{
		Type: kind, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
	}
	if is {
		c.Status = corev1.ConditionTrue
	}
	for i := range ns.Status.Conditions {
		have := &ns.Status.Conditions[i]
		if have.Type == kind {
			if have.Status == c.Status {
				c.LastTransitionTime = have.LastTransitionTime
			}
			*have = c
			return
		}
	}
	ns.Status.Conditions = append(ns.Status.Conditions, c)
}
