package collect

import (
	"context"
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

// Expirer deletes old events. One host lists the events at an interval, so that
// not every host has to keep copies of them.
type Expirer struct {
	store  objects.Store
	engine *stewards.Controller
}

// NewExpirer returns an expirer that is not yet running.
func NewExpirer(d stewards.Deps) (*Expirer, error) {
	d, err := d.Complete()
	if err != nil {
		return nil, err
	}
	e := &Expirer{store: d.Store}
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
	list, _, err := objects.List[*corev1.Event](ctx, e.store, "", raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return err
	}
	horizon := time.Now().Add(-eventTTL)
	var tx objects.Tx
	n := 0
	flush := func() error {
		_, err := tx.Commit(ctx, e.store)
		tx, n = objects.Tx{}, 0
		if err != nil {
			return fmt.Errorf("delete events: %w", err)
		}
		return nil
	}
	for _, ev := range list {
		if lastSeen(ev).After(horizon) {
			continue
		}
		tx.Delete(ev, objects.DeleteOptions{})
		if n++; n == sweepBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// lastSeen is when the event last happened.
func lastSeen(ev *corev1.Event) time.Time {
	last := ev.CreationTimestamp.Time
	for _, t := range []time.Time{ev.LastTimestamp.Time, ev.EventTime.Time} {
		if t.After(last) {
			last = t
		}
	}
	if ev.Series != nil && ev.Series.LastObservedTime.After(last) {
		last = ev.Series.LastObservedTime.Time
	}
	return last
}
