// Package quarantine ends the quarantine of this host after a recovery of the mesh.
//
// A mesh that was recovered continues from a copy, which may not know of everything that
// the hosts run. So the recovery puts every host into quarantine, and while any host is
// in it, no machine that existed before is started. A host that has the recovered state
// ends what it runs without a claim, as it always does. When nothing of that is left,
// only the host itself can know, and it leaves quarantine.
package quarantine

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// retryPause is the time between two looks at what still runs here.
const retryPause = 5 * time.Second

// Running returns the instances of which this host has a guest that runs.
type Running func(ctx context.Context) ([]types.UID, error)

// Keeper ends the quarantine of a host.
type Keeper struct {
	host    string
	running Running
	store   objects.Store
	claims  *claims.Cache
	log     *slog.Logger
	engine  *stewards.Controller
}

// New returns a keeper for the host, which Run starts.
func New(d stewards.Deps, host string, running Running) (*Keeper, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	k := &Keeper{host: host, running: running, store: d.Store, claims: d.Claims, log: d.Logger}
	k.engine, err = stewards.New(d, stewards.Steward{
		Name: "quarantine", Everywhere: true, Workers: 1, Reconciler: stewards.ReconcilerFunc(k.reconcile),
		Inputs: []stewards.Input{
			{What: "hosts in quarantine", Wakes: "the one key, when this host is among them", Source: ownQuarantine{k}},
			{What: "guests of this host"},
		},
		Outputs: []stewards.Output{stewards.WritesRecords("claims: quarantine of this host", claims.Prefix)},
	})
	return k, err
}

// Declaration returns the steward with its inputs and outputs.
func (k *Keeper) Declaration() stewards.Steward { return k.engine.Declaration() }

// Run ends the quarantine when it may, until ctx ends.
func (k *Keeper) Run(ctx context.Context) error { return k.engine.Run(ctx) }

// own returns the record of this host, if it is in quarantine.
func (k *Keeper) own() (claims.Quarantine, bool) {
	for _, q := range k.claims.Quarantine() {
		if q.Host == k.host {
			return q, true
		}
	}
	return claims.Quarantine{}, false
}

// ownQuarantine is a Source of one key, as long as the host is in quarantine.
type ownQuarantine struct{ *Keeper }

var _ stewards.Source = ownQuarantine{}

// Subscribe implements stewards.Source.
func (o ownQuarantine) Subscribe(fn func(stewards.Key)) (cancel func()) {
	return o.claims.AddHandler(func(ev claims.Event) {
		if ev.Quarantine != nil && *ev.Quarantine == o.host {
			fn(stewards.Key{Name: o.host})
		}
	})
}

// Keys implements stewards.Source.
func (o ownQuarantine) Keys() []stewards.Key {
	if _, listed := o.own(); !listed {
		return nil
	}
	return []stewards.Key{{Name: o.host}}
}

// WaitForSync implements stewards.Source.
func (o ownQuarantine) WaitForSync(ctx context.Context) error { return o.claims.WaitForSync(ctx) }

// reconcile ends the quarantine if this host runs nothing that it has no claim on.
func (k *Keeper) reconcile(ctx context.Context, _ stewards.Key) (stewards.Result, error) {
	record, listed := k.own()
	if !listed {
		return stewards.Result{}, nil
	}
	// The claims are read last: a guest that starts meanwhile had its claim before.
	running, err := k.running(ctx)
	if err != nil {
		return stewards.Result{}, fmt.Errorf("look for guests that the mesh does not know: %w", err)
	}
	held, err := claims.OnHost(ctx, k.store, k.host, raftstore.ReadOptions{})
	if err != nil {
		return stewards.Result{}, fmt.Errorf("look for guests that the mesh does not know: %w", err)
	}
	known := map[types.UID]bool{}
	for _, in := range held {
		known[in.UID] = true
	}
	for _, uid := range running {
		if !known[uid] {
			k.log.Info("a guest that the recovered mesh does not know still runs here", "uid", uid)
			return stewards.Result{RequeueAfter: retryPause}, nil
		}
	}
	var tx objects.Tx
	claims.EndQuarantine(&tx, record)
	if _, err := tx.Commit(ctx, k.store); err != nil {
		return stewards.Result{}, fmt.Errorf("end the quarantine of %s: %w", k.host, err)
	}
	k.log.Info("this host has the recovered state and runs nothing else: its quarantine has ended")
	return stewards.Result{}, nil
}
