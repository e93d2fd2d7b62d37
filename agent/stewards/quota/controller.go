package quota

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

const (
	// recount is how often a namespace with quotas is counted again.
	recount = 10 * time.Minute
	// maxTries is how often a count is added to a record that others change meanwhile.
	maxTries = 20
)

// Controller is the control loop of quotas. Its keys are namespaces.
type Controller struct {
	deps   stewards.Deps
	quotas *objects.Informer[*corev1.ResourceQuota]
	engine *stewards.Controller

	mu      sync.Mutex
	counted map[string]time.Time // when this host has counted a namespace
}

// New returns a controller that is not yet running.
func New(d stewards.Deps) (*Controller, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	c := &Controller{deps: d, quotas: objects.For[*corev1.ResourceQuota](d.Cache), counted: map[string]time.Time{}}
	c.engine, err = stewards.New(d, stewards.Steward{
		Name: "quota", Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Inputs: []stewards.Input{
			stewards.WatchNamed(d.Cache, "its namespace", func(q *corev1.ResourceQuota) []objects.Key { return []objects.Key{{Name: q.Namespace}} }),
			{What: "what namespaces use", Wakes: "the namespace", Source: newRecords(d.Cache)},
			{What: "the objects of a namespace"},
		},
		Outputs: []stewards.Output{
			stewards.WritesStatus[*corev1.ResourceQuota](),
			stewards.WritesRecords("what namespaces use", usage.Prefix),
		},
		Moved: func(key stewards.Key) { c.forget(key.Name) },
	})
	return c, err
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run handles namespaces until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.engine.Run(ctx) }

func (c *Controller) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	record, stored, revision, err := c.read(ctx, key.Name, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return stewards.Result{}, err
	}
	if stored.Key == "" {
		c.forget(key.Name)
		return stewards.Result{}, nil
	}
	if !record.Counted() || c.isDue(key.Name) {
		if record, err = c.count(ctx, key.Name, record, stored, revision); err != nil {
			return stewards.Result{}, fmt.Errorf("count what namespace %s uses: %w", key.Name, err)
		}
		c.noteCount(key.Name)
	}
	return stewards.Result{RequeueAfter: recount}, c.report(ctx, key.Name, record)
}

// read returns the record of a namespace, and the revision of the store at which it is so. The
// key of the stored record is empty if there is none.
func (c *Controller) read(ctx context.Context, namespace string, how raftstore.ReadOptions) (usage.Record, raftstore.Record, uint64, error) {
	stored, revision, err := c.deps.Store.Get(ctx, usage.Key(namespace), how)
	if errors.Is(err, raftstore.ErrNotFound) {
		return usage.Record{}, raftstore.Record{}, revision, nil
	}
	if err != nil {
		return usage.Record{}, raftstore.Record{}, revision, fmt.Errorf("read what namespace %s uses: %w", namespace, err)
	}
	record, err := usage.Decode(stored.Value)
	return record, stored, revision, err
}

// count compares a record, as it is at a revision, with the objects at that revision, and adds
// what it lacks. It returns the record as it is then.
func (c *Controller) count(ctx context.Context, namespace string, record usage.Record, stored raftstore.Record, revision uint64) (usage.Record, error) {
	there, err := c.usedAt(ctx, namespace, revision)
	if err != nil {
		return record, err
	}
	lacking := usage.Subtract(there, record.Used)
	made, counts := stored.CreateRevision, record.Counts
	if record.Counted() && len(lacking) == 0 {
		return record, nil
	}
	if record.Counted() {
		c.deps.Logger.Warn("the quotas of a namespace were not right, and are now", "namespace", namespace, "difference", fmt.Sprint(lacking))
	}
	for range maxTries {
		record.Used, record.Counts = usage.Add(record.Used, lacking), counts+1
		tx := c.deps.NewTx()
		tx.Require(stored.Key, stored.ModRevision)
		objects.PutValue(&tx, stored.Key, record)
		if _, err = tx.Commit(ctx, c.deps.Store); err == nil || !objects.LostRace(err) {
			return record, err
		}
		if record, stored, _, err = c.read(ctx, namespace, raftstore.ReadOptions{}); err != nil {
			return record, err
		}
		if stored.CreateRevision != made || record.Counts != counts {
			break // it is another record, or another host was first: this count says nothing of it
		}
	}
	return record, fault.New(fault.Conflict, "others have changed the record too often meanwhile, or have counted themselves")
}

// usedAt returns what the objects of a namespace use at a revision.
func (c *Controller) usedAt(ctx context.Context, namespace string, revision uint64) (usage.Amounts, error) {
	total := usage.Amounts{}
	for _, kind := range kinds.Counted() {
		list, err := c.deps.Store.List(ctx, raftstore.ListRequest{
			Prefix: kind.NamespacePrefix(namespace), Revision: revision, Compact: true,
			ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local},
		})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, rec := range list.Records {
			total = usage.Add(total, usedBy(kind, rec))
		}
	}
	return total, nil
}

// usedBy returns what a stored object uses, as the planner has it.
func usedBy(kind *kinds.Kind, rec raftstore.Record) usage.Amounts {
	if !usage.HasContent(kind.GroupResource()) {
		return usage.Of(kind.GroupResource(), nil)
	}
	obj := kind.New()
	if err := objects.CodecOf(kind).Decode(rec.Expand().Value, obj); err != nil {
		return usage.Of(kind.GroupResource(), nil)
	}
	return usage.Of(kind.GroupResource(), obj)
}

// report writes the status of the quotas of a namespace.
func (c *Controller) report(ctx context.Context, namespace string, record usage.Record) error {
	var errs []error
	for _, quota := range c.quotas.List(namespace) {
		used, known := record.Under(quota.Spec.Hard, kinds.QuotaLimits)
		if !known {
			continue
		}
		next := quota.DeepCopy()
		next.Status = corev1.ResourceQuotaStatus{Hard: maps.Clone(quota.Spec.Hard), Used: used}
		if equality.Semantic.DeepEqual(quota.Status, next.Status) {
			continue
		}
		tx := c.deps.NewTx()
		tx.UpdateStatus(quota, next)
		if _, err := tx.Commit(ctx, c.deps.Store); err != nil {
			errs = append(errs, fmt.Errorf("report quota %s: %w", objects.KeyOf(quota), err))
		}
	}
	return errors.Join(errs...)
}

// isDue reports whether this host has to count a namespace again.
func (c *Controller) isDue(namespace string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	last, ok := c.counted[namespace]
	return !ok || time.Since(last) >= recount
}

func (c *Controller) noteCount(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted[namespace] = time.Now()
}

func (c *Controller) forget(namespace string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.counted, namespace)
}
