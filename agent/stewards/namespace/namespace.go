// Package namespace runs the control loop that ends namespaces.
//
// A namespace whose deletion was asked for keeps spec.finalizers until its
// content is gone. The loop asks for the deletion of all objects in the
// namespace, of every kind. Its conditions list what is left and which
// finalizers delay the deletion. Objects that other loops add meanwhile are
// found in the next round.
package namespace

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// round is how long to wait for the content to go before looking again.
const round = time.Second

// Controller is the control loop of namespaces.
type Controller struct {
	deps       stewards.Deps
	namespaces *objects.Informer[*corev1.Namespace]
	engine     *stewards.Controller
}

// New returns a controller that is not yet running.
func New(d stewards.Deps) (*Controller, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	c := &Controller{deps: d, namespaces: objects.For[*corev1.Namespace](d.Cache)}
	c.engine, err = stewards.New(d, stewards.Steward{
		Name: "namespace", Scope: "namespaces", Workers: 2,
		Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Inputs: []stewards.Input{
			stewards.Watch[*corev1.Namespace](d.Cache),
			{What: "all objects in a namespace under deletion"},
		},
		Outputs: []stewards.Output{
			stewards.WritesFields[*corev1.Namespace]("status", "spec.finalizers", "metadata.finalizers"),
			{What: "all objects in a namespace under deletion", Prefix: kinds.Root, Acts: stewards.Delete, Fields: stewards.DeletionFields()},
		},
	})
	return c, err
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

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
	setConditions(next, content, failure, c.deps.Clock.Now())
	if len(content) == 0 {
		next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	}
	tx := c.deps.NewTx()
	tx.Update(ns, next)
	if _, err := tx.Commit(ctx, c.deps.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("update namespace %s: %w", key.Name, err)
	}
	if len(content) > 0 {
		return stewards.Result{RequeueAfter: round}, nil
	}
	return stewards.Result{}, nil
}

// content returns everything in the namespace.
func (c *Controller) content(ctx context.Context, namespace string) ([]objects.Raw, error) {
	var content []objects.Raw
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	_, err := objects.ListRecords(ctx, c.deps.Store, kinds.Root, local, func(rec raftstore.Record) error {
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
		// The whole batch fails if one object has just changed, so delete the
		// objects one by one.
		for _, raw := range part {
			if err := c.remove(ctx, raw); err != nil {
				failures = append(failures, fmt.Errorf("%s: %w", describe(raw), err))
			}
		}
	}
	return errors.Join(failures...)
}

func (c *Controller) remove(ctx context.Context, objs ...objects.Raw) error {
	tx := c.deps.NewTx()
	for _, raw := range objs {
		raw.Unstructured = raw.DeepCopy()
		tx.DeleteRaw(raw)
	}
	_, err := tx.Commit(ctx, c.deps.Store)
	return err
}

// describe names the resource of an object: "virtualmachines.kubevirt.io".
func describe(raw objects.Raw) string {
	l, _ := kinds.ParseLocation(raw.StoreKey)
	return l.Resource.String()
}

// setConditions lists what is left in the conditions that Kubernetes uses for
// this.
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
