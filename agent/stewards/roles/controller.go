package roles

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

// patience is how often a mesh below the level of roles is asked for its level.
const patience = 10 * time.Second

// Roles is the control loop of the ClusterRoles.
type Roles struct {
	deps   stewards.Deps
	roles  *objects.Informer[*rbacv1.ClusterRole]
	from   map[string]*rbacv1.ClusterRole // of Bootstrap, by name
	engine *stewards.Controller
}

// Bindings is the control loop of the ClusterRoleBindings.
type Bindings struct {
	deps     stewards.Deps
	bindings *objects.Informer[*rbacv1.ClusterRoleBinding]
	from     map[string]*rbacv1.ClusterRoleBinding // of Bootstrap, by name
	engine   *stewards.Controller
}

// NewRoles returns the loop of the ClusterRoles, which is not yet running.
func NewRoles(d stewards.Deps) (*Roles, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	r := &Roles{deps: d, roles: objects.For[*rbacv1.ClusterRole](d.Cache), from: bootstrapOf[*rbacv1.ClusterRole]()}
	aggregated := objects.NewIndex(r.roles, func(role *rbacv1.ClusterRole) []objects.Key {
		if role.AggregationRule == nil {
			return nil
		}
		return []objects.Key{objects.KeyOf(role)}
	})
	r.engine, err = stewards.New(d, stewards.Steward{
		Name: "cluster-roles", Reconciler: stewards.ReconcilerFunc(r.reconcile),
		Inputs: []stewards.Input{
			{What: "the roles of the program", Wakes: "their ClusterRoles", Source: names(r.from)},
			stewards.WatchFor(d.Cache, "itself and the aggregated ones", func(c objects.Change[*rbacv1.ClusterRole]) []objects.Key {
				return append(aggregated.Keys(), c.Key)
			}),
		},
		Outputs: []stewards.Output{stewards.Writes[*rbacv1.ClusterRole](stewards.Create | stewards.Update)},
	})
	return r, err
}

// NewBindings returns the loop of the ClusterRoleBindings, which is not yet running.
func NewBindings(d stewards.Deps) (*Bindings, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	b := &Bindings{deps: d, bindings: objects.For[*rbacv1.ClusterRoleBinding](d.Cache), from: bootstrapOf[*rbacv1.ClusterRoleBinding]()}
	b.engine, err = stewards.New(d, stewards.Steward{
		Name: "cluster-role-bindings", Reconciler: stewards.ReconcilerFunc(b.reconcile),
		Inputs: []stewards.Input{
			{What: "the bindings of the program", Wakes: "their ClusterRoleBindings", Source: names(b.from)},
			stewards.Watch[*rbacv1.ClusterRoleBinding](d.Cache),
		},
		Outputs: []stewards.Output{stewards.Writes[*rbacv1.ClusterRoleBinding](stewards.Create | stewards.Update | stewards.Delete)},
	})
	return b, err
}

// Declaration returns the steward with its inputs and outputs.
func (r *Roles) Declaration() stewards.Steward { return r.engine.Declaration() }

// Run handles ClusterRoles until ctx ends.
func (r *Roles) Run(ctx context.Context) error { return r.engine.Run(ctx) }

// Declaration returns the steward with its inputs and outputs.
func (b *Bindings) Declaration() stewards.Steward { return b.engine.Declaration() }

// Run handles ClusterRoleBindings until ctx ends.
func (b *Bindings) Run(ctx context.Context) error { return b.engine.Run(ctx) }

// bootstrapOf returns the objects of Bootstrap of one kind, by name.
func bootstrapOf[T kinds.Object]() map[string]T {
	found := map[string]T{}
	for _, o := range Bootstrap() {
		if t, ok := o.(T); ok {
			found[o.GetName()] = t
		}
	}
	return found
}

// waits reports whether the mesh has no roles yet; the result says when to look again.
func waits(d stewards.Deps) (stewards.Result, bool) {
	return stewards.Result{RequeueAfter: patience}, d.Store.FeatureLevel() < level.Access
}

// reconcile makes a role of the program, completes it, and gathers the rules of an
// aggregated one, in one write.
func (r *Roles) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	if again, early := waits(r.deps); early {
		return again, nil
	}
	stored, exists := r.roles.Get(key)
	wanted := stored
	if from, ok := r.from[key.Name]; ok {
		var err error
		if wanted, err = completeRole(from, stored, exists); err != nil {
			return stewards.Result{}, fmt.Errorf("complete ClusterRole %s: %w", key.Name, err)
		}
	}
	if wanted == nil || exists && stored.DeletionTimestamp != nil {
		return stewards.Result{}, nil
	}
	if wanted.AggregationRule != nil {
		rules, err := gatherRules(wanted, r.roles.List(""))
		if err != nil {
			return stewards.Result{}, err
		}
		if !sameRules(wanted.Rules, rules) {
			wanted = wanted.DeepCopy()
			wanted.Rules = rules
		}
	}
	tx := r.deps.NewTx()
	if exists {
		tx.Update(stored, wanted)
	} else {
		tx.Create(wanted)
	}
	if _, err := tx.Commit(ctx, r.deps.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("write ClusterRole %s: %w", key.Name, err)
	}
	return stewards.Result{}, nil
}

// reconcile makes a binding of the program and completes it.
func (b *Bindings) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	from, ok := b.from[key.Name]
	if !ok {
		return stewards.Result{}, nil
	}
	if again, early := waits(b.deps); early {
		return again, nil
	}
	stored, exists := b.bindings.Get(key)
	if exists && stored.DeletionTimestamp != nil {
		return stewards.Result{}, nil
	}
	wanted, err := completeBinding(from, stored, exists)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("complete ClusterRoleBinding %s: %w", key.Name, err)
	}
	tx := b.deps.NewTx()
	switch {
	case !exists:
		tx.Create(wanted)
	case wanted.RoleRef != stored.RoleRef:
		// The role of a binding cannot be changed. The deletion wakes the key again.
		tx.Delete(stored, objects.DeleteOptions{})
	default:
		tx.Update(stored, wanted)
	}
	if _, err := tx.Commit(ctx, b.deps.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("write ClusterRoleBinding %s: %w", key.Name, err)
	}
	return stewards.Result{}, nil
}

// nameSource is the source of the names of the objects that should always exist. They wake
// the loop once at its start, and at each resync.
type nameSource []stewards.Key

func names[T any](of map[string]T) nameSource {
	var keys nameSource
	for _, name := range slices.Sorted(maps.Keys(of)) {
		keys = append(keys, stewards.Key{Name: name})
	}
	return keys
}

// Subscribe implements stewards.Source.
func (s nameSource) Subscribe(fn func(stewards.Key)) (cancel func()) {
	for _, key := range s {
		fn(key)
	}
	return func() {}
}

// Keys implements stewards.Source.
func (s nameSource) Keys() []stewards.Key { return s }

// WaitForSync implements stewards.Source.
func (nameSource) WaitForSync(context.Context) error { return nil }
