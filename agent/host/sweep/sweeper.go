// Package sweep gives up the claims on this host whose instances no longer exist.
//
// Normally the transaction that removes the last finalizer of an instance also deletes
// its claim. If somebody removes the finalizers by force, the claim remains, and keeps
// room on the host and the name of the instance occupied. Only the host that the claim
// names can know whether it still has a guest of the instance. So only that host gives
// the claim up, after the guest is gone.
package sweep

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// retryPause is the time between two checks whether the guest is gone.
const retryPause = 5 * time.Second

// HasGuest reports whether this host still has a guest of the instance, running
// or not.
type HasGuest func(ctx context.Context, uid types.UID) (bool, error)

// Confirm returns once what this host knows of the mesh is certain, see
// raftstore.Store.Confirm.
type Confirm func(ctx context.Context) error

// confirmTimeout bounds how long a sweep waits for certainty.
const confirmTimeout = 10 * time.Second

// Sweeper gives up the claims on this host whose instances no longer exist.
type Sweeper struct {
	host     string
	hasGuest HasGuest
	confirm  Confirm
	store    objects.Store
	claims   *claims.Cache
	log      *slog.Logger
	vmis     *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	engine   *stewards.Controller
}

// New returns a sweeper of the claims on host, which Run starts. It keeps a claim as
// long as hasGuest finds a guest of the instance, and until confirm says that the instance is
// certainly gone.
func New(d stewards.Deps, host string, hasGuest HasGuest, confirm Confirm) (*Sweeper, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	s := &Sweeper{
		host: host, hasGuest: hasGuest, confirm: confirm, store: d.Store, claims: d.Claims, log: d.Logger,
		vmis: objects.For[*kubevirtv1.VirtualMachineInstance](d.Cache),
	}
	s.engine, err = stewards.New(d, stewards.Steward{
		Name: "claim-sweeper", Everywhere: true, Workers: 1, Reconciler: stewards.ReconcilerFunc(s.reconcile),
		Inputs: []stewards.Input{
			{What: "claims on this host, VirtualMachineInstance", Wakes: "the uid that a claim names, when it comes or its instance goes", Source: ownClaims{s}},
			{What: "guests of this host"},
		},
		Outputs: []stewards.Output{stewards.WritesRecords("claims: instances and volumes", claims.Prefix)},
	})
	return s, err
}

// Declaration returns the steward with its inputs and outputs.
func (s *Sweeper) Declaration() stewards.Steward { return s.engine.Declaration() }

// Run sweeps claims until ctx ends.
func (s *Sweeper) Run(ctx context.Context) error { return s.engine.Run(ctx) }

// ownClaims is a Source of the UIDs of this host's claims. It names a UID when its claim
// appears and when its instance disappears.
type ownClaims struct{ *Sweeper }

var _ stewards.Source = ownClaims{}

// Subscribe implements stewards.Source.
func (o ownClaims) Subscribe(fn func(stewards.Key)) (cancel func()) {
	stopClaims := o.claims.AddHandler(func(ev claims.Event) {
		if ev.Instance != nil && ev.Instance.New != nil && ev.Instance.New.Host == o.host {
			fn(stewards.Key{Name: string(ev.Instance.New.UID)})
		}
	})
	stopInstances := o.vmis.AddHandler(func(c objects.Change[*kubevirtv1.VirtualMachineInstance]) {
		if c.New == nil || c.Recreated {
			fn(stewards.Key{Name: string(c.Old().UID)})
		}
	})
	return func() {
		stopClaims()
		stopInstances()
	}
}

// Keys implements stewards.Source.
func (o ownClaims) Keys() []stewards.Key {
	var keys []stewards.Key
	for _, in := range o.claims.OnHost(o.host) {
		keys = append(keys, stewards.Key{Name: string(in.UID)})
	}
	return keys
}

// WaitForSync implements stewards.Source.
func (o ownClaims) WaitForSync(ctx context.Context) error {
	if err := o.vmis.WaitForSync(ctx); err != nil {
		return err
	}
	return o.claims.WaitForSync(ctx)
}

// reconcile gives up the claim of one UID if its instance and its guest are gone.
func (s *Sweeper) reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	uid := types.UID(key.Name)
	in, ok := s.claims.Instance(uid)
	if !ok || in.Host != s.host {
		return stewards.Result{}, nil
	}
	if vmi, ok := s.vmis.Get(in.Key()); ok && vmi.UID == uid {
		return stewards.Result{}, nil
	}
	// This replica may lag, so the instance is read linearizably.
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](ctx, s.store, in.Key(), raftstore.ReadOptions{})
	switch {
	case err == nil && vmi.UID == uid:
		return stewards.Result{}, nil
	case err != nil && !apierrors.IsNotFound(err):
		return stewards.Result{}, err
	}
	has, err := s.hasGuest(ctx, uid)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("look for the guest of %s: %w", in.Key(), err)
	}
	if has {
		return stewards.Result{RequeueAfter: retryPause}, nil
	}
	certain, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	if err := s.confirm(certain); err != nil {
		return stewards.Result{}, fmt.Errorf("give up the claim of %s: %w", in.Key(), err)
	}
	var tx objects.Tx
	for _, vol := range s.claims.VolumesOf(uid) {
		claims.Detach(&tx, vol, uid)
	}
	claims.Release(&tx, in)
	if _, err := tx.Commit(ctx, s.store); err != nil {
		return stewards.Result{}, fmt.Errorf("give up the claim of %s, which no longer exists: %w", in.Key(), err)
	}
	s.log.Info("gave up the claim of an instance that no longer exists", "instance", in.Key().String(), "uid", uid)
	return stewards.Result{}, nil
}
