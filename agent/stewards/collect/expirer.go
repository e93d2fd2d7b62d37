package collect

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

const (
	// eventTTL is how long an event is kept after it last happened: an hour, as
	// in Kubernetes.
	eventTTL = time.Hour
	// eventInterval is how often old events are looked for.
	eventInterval = 5 * time.Minute
)

// Expirer deletes old events. One host does it, so that not every host has to keep
// copies of them.
//
// How old an event is, is measured by the host that deletes it: it notes which revision the
// store has, and an hour later all events that were last written up to then are old. The
// times in events come from the clocks of the hosts that wrote them, and would make events
// disappear at once, or never. An agent that has just started waits for an hour, and reads
// no event before it is due.
type Expirer struct {
	deps   stewards.Deps
	engine *stewards.Controller
	// clock has the readings since the horizon and one before it. Only the one worker
	// uses it.
	clock []reading
}

// reading says which revision the store had at a time.
type reading struct {
	at       time.Time
	revision uint64
}

// NewExpirer returns an expirer that is not yet running.
func NewExpirer(d stewards.Deps) (*Expirer, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	e := &Expirer{deps: d}
	e.engine, err = stewards.New(d, stewards.Steward{
		Name: "old-events", Workers: 1, Reconciler: stewards.ReconcilerFunc(e.reconcile),
		Inputs: []stewards.Input{
			stewards.Periodic("events", "every five minutes"),
			{What: "Event"},
		},
		Outputs: []stewards.Output{stewards.Writes[*corev1.Event](stewards.Delete)},
	})
	return e, err
}

// Declaration returns the steward with its inputs and outputs.
func (e *Expirer) Declaration() stewards.Steward { return e.engine.Declaration() }

// Run deletes old events until ctx ends.
func (e *Expirer) Run(ctx context.Context) error { return e.engine.Run(ctx) }

// reconcile deletes the events that are too old now.
func (e *Expirer) reconcile(ctx context.Context, _ stewards.Key) (stewards.Result, error) {
	if err := e.deleteOld(ctx); err != nil {
		return stewards.Result{}, err
	}
	return stewards.Result{RequeueAfter: eventInterval}, nil
}

// sweepBatch is how many events one transaction deletes.
const sweepBatch = 200

func (e *Expirer) deleteOld(ctx context.Context) error {
	now := time.Now()
	horizon := now.Add(-eventTTL)
	for len(e.clock) > 1 && !e.clock[1].at.After(horizon) {
		e.clock = e.clock[1:]
	}
	due := uint64(1) // nothing was ever written at revision 1
	if len(e.clock) > 0 && !e.clock[0].at.After(horizon) {
		due = e.clock[0].revision
	}
	d := deletion{deps: e.deps, tx: e.deps.NewTx()}
	revision, err := objects.ListUnchanged(ctx, e.deps.Store, eventsPrefix, due, raftstore.ReadOptions{Consistency: raftstore.Local}, func(rec raftstore.Record) error {
		ev, err := objects.Decode[*corev1.Event](rec)
		if err != nil {
			return err
		}
		return d.add(ctx, ev)
	})
	if err = errors.Join(err, d.flush(ctx)); err != nil {
		return err
	}
	e.clock = append(e.clock, reading{now, revision})
	return nil
}

// deletion deletes events in transactions of sweepBatch.
type deletion struct {
	deps stewards.Deps
	tx   objects.Tx
	n    int
}

func (d *deletion) add(ctx context.Context, ev *corev1.Event) error {
	d.tx.Delete(ev, objects.DeleteOptions{})
	if d.n++; d.n == sweepBatch {
		return d.flush(ctx)
	}
	return nil
}

func (d *deletion) flush(ctx context.Context) error {
	_, err := d.tx.Commit(ctx, d.deps.Store)
	d.tx, d.n = d.deps.NewTx(), 0
	if err != nil {
		return fmt.Errorf("delete events: %w", err)
	}
	return nil
}
