// Package configuration runs the control loop that keeps the HyperConverged of the mesh: the
// object in which clients of KubeVirt look for the configuration, and the namespaces that they
// expect.
//
// From feature level level.Access on, the namespaces and the object are made where they are
// missing, with the defaults of every field, and so again after they were deleted. The status says
// for which generation the fields are in force. No host is told of a change: each reads the fields
// that act from its own copy of the object when it needs them.
package configuration

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/kinds/hcov1beta1"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
)

// levelPause is how often a mesh below the level of the kind is asked for its level: nothing tells
// when it is raised.
const levelPause = time.Minute

// where is the one object.
var where = objects.Key{Namespace: hcov1beta1.Namespace, Name: hcov1beta1.Name}

// Controller is the control loop of the configuration.
type Controller struct {
	deps       stewards.Deps
	namespaces *objects.Informer[*corev1.Namespace]
	configs    *objects.Informer[*hcov1beta1.HyperConverged]
	engine     *stewards.Controller
}

// New returns a controller that is not yet running.
func New(d stewards.Deps) (*Controller, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	c := &Controller{deps: d, namespaces: objects.For[*corev1.Namespace](d.Cache), configs: objects.For[*hcov1beta1.HyperConverged](d.Cache)}
	// An index keeps the list and shortens its strings, so each gets a new one.
	one := func() []objects.Key { return []objects.Key{{Name: hcov1beta1.Name}} }
	c.engine, err = stewards.New(d, stewards.Steward{
		Name: "configuration", Workers: 1, Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Inputs: []stewards.Input{
			stewards.Periodic(hcov1beta1.Name, "every minute until the mesh is at the level of the kind"),
			stewards.WatchNamed(d.Cache, "the one key", func(*hcov1beta1.HyperConverged) []objects.Key { return one() }),
			stewards.WatchNamed(d.Cache, "the one key, if it is a namespace of the configuration", func(ns *corev1.Namespace) []objects.Key {
				if ns.Name != hcov1beta1.Namespace && ns.Name != hcov1beta1.OtherNamespace {
					return nil
				}
				return one()
			}),
		},
		Outputs: []stewards.Output{
			stewards.Writes[*corev1.Namespace](stewards.Create),
			stewards.Writes[*hcov1beta1.HyperConverged](stewards.Create),
			stewards.WritesStatus[*hcov1beta1.HyperConverged](),
		},
	})
	return c, err
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run keeps the configuration until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.engine.Run(ctx) }

// reconcile makes what is missing, and brings the status up to date, in one transaction.
func (c *Controller) reconcile(ctx context.Context, _ stewards.Key) (stewards.Result, error) {
	if c.deps.Store.FeatureLevel() < level.Access {
		return stewards.Result{RequeueAfter: levelPause}, nil
	}
	tx := c.deps.NewTx()
	for _, name := range []string{hcov1beta1.Namespace, hcov1beta1.OtherNamespace} {
		if _, ok := c.namespaces.Get(objects.Key{Name: name}); !ok {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
			kinds.For[*corev1.Namespace]().Default(machine.DefaultDefaults(), ns)
			tx.Create(ns)
		}
	}
	if err := c.keepConfig(&tx); err != nil {
		return stewards.Result{}, err
	}
	if _, err := tx.Commit(ctx, c.deps.Store); err != nil {
		return stewards.Result{}, fmt.Errorf("keep HyperConverged %s: %w", where, err)
	}
	return stewards.Result{}, nil
}

// keepConfig adds to tx what is to be written of the object. A namespace that is being deleted
// gets no more content: its end wakes the loop.
func (c *Controller) keepConfig(tx *objects.Tx) error {
	stored, exists := c.configs.Get(where)
	now := metav1.NewTime(c.deps.Clock.Now().Truncate(time.Second))
	if exists {
		next := stored.DeepCopy()
		setStatus(next, stored.Generation, now)
		if stored.DeletionTimestamp == nil && !equality.Semantic.DeepEqual(stored.Status, next.Status) {
			tx.Update(stored, next)
		}
		return nil
	}
	if ns, ok := c.namespaces.Get(objects.Key{Name: where.Namespace}); ok {
		if ns.DeletionTimestamp != nil {
			return nil
		}
		revision, err := objects.Revision(ns)
		if err != nil {
			return err
		}
		tx.Require(kinds.For[*corev1.Namespace]().StoreKey(objects.Key{Name: where.Namespace}), revision)
	}
	config := &hcov1beta1.HyperConverged{ObjectMeta: metav1.ObjectMeta{Namespace: where.Namespace, Name: where.Name}}
	hcov1beta1.SetDefaults(&config.Spec)
	setStatus(config, 1, now)
	tx.Create(config)
	return nil
}

// The words of the operator for what it has finished, and for annotations that it warns of.
const (
	completed        = "ReconcileCompleted"
	completedMessage = "Reconcile completed successfully"
	tainted          = "UnsupportedFeatureAnnotation"
	taintedMessage   = "Unsupported feature was activated via an HCO annotation"
)

// setStatus says that a generation is in force.
func setStatus(c *hcov1beta1.HyperConverged, generation int64, now metav1.Time) {
	s := &c.Status
	s.ObservedGeneration, s.SystemHealthStatus = generation, "healthy"
	for _, condition := range []struct {
		name string
		is   metav1.ConditionStatus
	}{
		{hcov1beta1.ReconcileComplete, metav1.ConditionTrue}, {hcov1beta1.Available, metav1.ConditionTrue},
		{hcov1beta1.Progressing, metav1.ConditionFalse}, {hcov1beta1.Degraded, metav1.ConditionFalse},
		{hcov1beta1.Upgradeable, metav1.ConditionTrue},
	} {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: condition.name, Status: condition.is, Reason: completed, Message: completedMessage,
			ObservedGeneration: generation, LastTransitionTime: now,
		})
	}
	if len(kinds.JSONPatches(c)) > 0 {
		s.SystemHealthStatus = "warning"
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: hcov1beta1.TaintedConfiguration, Status: metav1.ConditionTrue, Reason: tainted,
			Message:            taintedMessage + ": it is stored, and nothing in a mesh acts on it",
			ObservedGeneration: generation, LastTransitionTime: now,
		})
	} else {
		meta.RemoveStatusCondition(&s.Conditions, hcov1beta1.TaintedConfiguration)
	}
	s.DataImportCronTemplates = nil
	for _, template := range c.Spec.DataImportCronTemplates {
		s.DataImportCronTemplates = append(s.DataImportCronTemplates, hcov1beta1.DataImportCronTemplateStatus{DataImportCronTemplate: template})
	}
}
