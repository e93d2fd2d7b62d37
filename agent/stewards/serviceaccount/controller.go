// Package serviceaccount runs the control loop that gives each namespace the ServiceAccount
// "default", as Kubernetes does: programs and manifests that name no other account count on it. It
// has no rights of its own.
package serviceaccount

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
)

const (
	// name is that of the account.
	name = "default"
	// levelPause is after what time a namespace of a mesh that has no accounts yet is looked at
	// again: nothing tells when the mesh is raised.
	levelPause = time.Minute
)

// Controller is the control loop of the accounts.
type Controller struct {
	deps       stewards.Deps
	namespaces *objects.Informer[*corev1.Namespace]
	accounts   *objects.Informer[*corev1.ServiceAccount]
	engine     *stewards.Controller
}

// New returns a controller that is not yet running.
func New(d stewards.Deps) (*Controller, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	c := &Controller{deps: d, namespaces: objects.For[*corev1.Namespace](d.Cache), accounts: objects.For[*corev1.ServiceAccount](d.Cache)}
	c.engine, err = stewards.New(d, stewards.Steward{
		Name: "service-account", Scope: "namespaces", Workers: 1,
		Reconciler: stewards.ReconcilerFunc(c.reconcile),
		Inputs: []stewards.Input{
			stewards.Watch[*corev1.Namespace](d.Cache),
			stewards.WatchNamed(d.Cache, "its namespace, if it is the account default", func(a *corev1.ServiceAccount) []objects.Key {
				if a.Name != name {
					return nil
				}
				return []objects.Key{{Name: a.Namespace}}
			}),
		},
		Outputs: []stewards.Output{stewards.Writes[*corev1.ServiceAccount](stewards.Create)},
	})
	return c, err
}

// Declaration returns the steward with its inputs and outputs.
func (c *Controller) Declaration() stewards.Steward { return c.engine.Declaration() }

// Run handles namespaces until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.engine.Run(ctx) }

func (c *Controller) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	ns, ok := c.namespaces.Get(key)
	if !ok || ns.DeletionTimestamp != nil {
		return stewards.Result{}, nil
	}
	if c.deps.Store.FeatureLevel() < level.Access {
		return stewards.Result{RequeueAfter: levelPause}, nil
	}
	if _, ok := c.accounts.Get(objects.Key{Namespace: key.Name, Name: name}); ok {
		return stewards.Result{}, nil
	}
	revision, err := objects.Revision(ns)
	if err != nil {
		return stewards.Result{}, err
	}
	tx := c.deps.NewTx()
	tx.Create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: key.Name, Name: name}})
	// A namespace that is being deleted gets no more content.
	tx.Require(kinds.For[*corev1.Namespace]().StoreKey(key), revision)
	if _, err := tx.Commit(ctx, c.deps.Store); err != nil && !apierrors.IsAlreadyExists(err) {
		return stewards.Result{}, fmt.Errorf("make the service account of namespace %s: %w", key.Name, err)
	}
	return stewards.Result{}, nil
}
