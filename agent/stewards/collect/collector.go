package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// Collector deletes objects whose owners are gone.
type Collector struct {
	deps   stewards.Deps
	graph  *graph
	engine *stewards.Controller
}

// New returns a collector that is not yet running.
func New(d stewards.Deps) (*Collector, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	c := &Collector{deps: d, graph: newGraph(d.Logger.With("controller", "garbage-collector"))}
	d.Cache.Records(kinds.Root, c.graph)
	c.engine, err = stewards.New(d, stewards.Steward{
		Name: "garbage-collector", Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Inputs: []stewards.Input{{What: "metadata of all objects", Wakes: "itself, its dependents, and its owners under deletion", Source: c.graph}},
		Outputs: []stewards.Output{{
			What: "all objects", Prefix: kinds.Root, Acts: stewards.Delete,
			Fields: append(stewards.DeletionFields(), "metadata.ownerReferences"),
		}},
	})
	return c, err
}

// Declaration returns the steward with its inputs and outputs.
func (c *Collector) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error { return c.engine.Run(ctx) }

// reconcile handles the object at the store key that key names.
func (c *Collector) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	i, dependents, ok := c.graph.itemAt(key.Name)
	if !ok {
		return stewards.Result{}, nil
	}
	var err error
	switch {
	case i.deleting && i.has(metav1.FinalizerOrphanDependents):
		err = c.orphanDependents(ctx, i, dependents)
	case i.waitsForDependents():
		err = c.awaitDependents(ctx, i, dependents)
	case len(i.owners) > 0 && !i.deleting:
		err = c.judgeItem(ctx, i, dependents)
	}
	if err != nil {
		return stewards.Result{}, fmt.Errorf("collect %s: %w", i.storeKey, err)
	}
	return stewards.Result{}, nil
}

// judgeItem deletes an object whose owners are all gone. If only some are gone,
// it removes the references to these.
func (c *Collector) judgeItem(ctx context.Context, i *item, dependents []*item) error {
	o := c.graph.classify(i)
	switch {
	case len(o.dangling) == 0 && len(o.waiting) == 0:
		return nil
	case len(o.solid) > 0:
		gone := slices.Concat(o.dangling, o.waiting)
		return c.rewriteItem(ctx, i, func(u objects.Raw) { dropOwners(u, gone) })
	case len(o.waiting) > 0 && slices.ContainsFunc(dependents, func(d *item) bool { return d.blocks(i.uid) }):
		return c.deleteItem(ctx, i, metav1.FinalizerDeleteDependents)
	}
	return c.deleteItem(ctx, i, "")
}

// orphanDependents removes the owner reference from each dependent, and then the
// finalizer from the owner.
func (c *Collector) orphanDependents(ctx context.Context, i *item, dependents []*item) error {
	self := []metav1.OwnerReference{{UID: i.uid}}
	for _, d := range dependents {
		if err := c.rewriteItem(ctx, d, func(u objects.Raw) { dropOwners(u, self) }); err != nil {
			return err
		}
	}
	return c.rewriteItem(ctx, i, func(u objects.Raw) { dropFinalizer(u, metav1.FinalizerOrphanDependents) })
}

// awaitDependents ends a foreground deletion when nothing blocks it any more.
// The dependents are deleted by their own stewards.
func (c *Collector) awaitDependents(ctx context.Context, i *item, dependents []*item) error {
	if slices.ContainsFunc(dependents, func(d *item) bool { return d.blocks(i.uid) }) {
		return nil
	}
	return c.rewriteItem(ctx, i, func(u objects.Raw) { dropFinalizer(u, metav1.FinalizerDeleteDependents) })
}

// deleteItem asks for the deletion of an object. With a finalizer, the object
// first waits for its own dependents.
func (c *Collector) deleteItem(ctx context.Context, i *item, finalizer string) error {
	raw, err := c.readItem(ctx, i)
	if raw.Unstructured == nil || err != nil {
		return err
	}
	if finalizer != "" && !slices.Contains(raw.GetFinalizers(), finalizer) {
		raw.SetFinalizers(append(raw.GetFinalizers(), finalizer))
	}
	tx := c.deps.NewTx()
	tx.DeleteRaw(raw)
	_, err = tx.Commit(ctx, c.deps.Store)
	return err
}

// rewriteItem rewrites an object.
func (c *Collector) rewriteItem(ctx context.Context, i *item, edit func(objects.Raw)) error {
	raw, err := c.readItem(ctx, i)
	if raw.Unstructured == nil || err != nil {
		return err
	}
	edit(raw)
	tx := c.deps.NewTx()
	tx.UpdateRaw(raw)
	_, err = tx.Commit(ctx, c.deps.Store)
	return err
}

// readItem returns an object at the revision that the graph saw. The result has
// no content if the object is gone.
func (c *Collector) readItem(ctx context.Context, i *item) (objects.Raw, error) {
	rec, _, err := c.deps.Store.Get(ctx, i.storeKey, raftstore.ReadOptions{Consistency: raftstore.Local})
	if errors.Is(err, raftstore.ErrNotFound) {
		return objects.Raw{}, nil
	}
	if err != nil {
		return objects.Raw{}, err
	}
	if rec.ModRevision != i.revision {
		// The graph is behind. The change that it has not seen yet will name
		// the object again, so this is a lost race like any other.
		resource := schema.GroupResource{Group: i.kind.Value().Group, Resource: i.kind.Value().Kind}
		return objects.Raw{}, apierrors.NewConflict(resource, i.name, fmt.Errorf("the object is at revision %d, but the decision was made on revision %d", rec.ModRevision, i.revision))
	}
	return objects.DecodeRaw(rec)
}

func dropOwners(u objects.Raw, gone []metav1.OwnerReference) {
	isGone := func(uid types.UID) bool {
		return slices.ContainsFunc(gone, func(r metav1.OwnerReference) bool { return r.UID == uid })
	}
	var kept []metav1.OwnerReference
	for _, ref := range u.GetOwnerReferences() {
		if !isGone(ref.UID) {
			kept = append(kept, ref)
		}
	}
	u.SetOwnerReferences(kept)
}

func dropFinalizer(u objects.Raw, finalizer string) {
	u.SetFinalizers(slices.DeleteFunc(u.GetFinalizers(), func(f string) bool { return f == finalizer }))
}
