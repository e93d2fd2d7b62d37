package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
// There may be a hundred thousand events, so that host reads them all only once. From
// then on it knows up to which revision of the store events were last seen by which
// time, and reads those that are due.
type Expirer struct {
	store  objects.Store
	engine *stewards.Controller
	// clock has the readings since the horizon and one before it. Only the one worker
	// uses it.
	clock []reading
}

// reading says that no event that was last written at revision or before was seen after
// the time at, apart from those whose writers set a time of their own.
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
	now := time.Now()
	horizon := now.Add(-eventTTL)
	if len(e.clock) == 0 {
		return e.readAll(ctx, now, horizon)
	}
	for len(e.clock) > 1 && !e.clock[1].at.After(horizon) {
		e.clock = e.clock[1:]
	}
	due := uint64(1) // nothing was ever written at revision 1
	if first := e.clock[0]; !first.at.After(horizon) {
		due = first.revision
	}
	revision, err := e.deleteDue(ctx, due, horizon)
	if err != nil {
		return err
	}
	e.clock = append(e.clock, reading{now, revision})
	return nil
}

// readAll deletes what is old and sets the clock by the events that stay.
func (e *Expirer) readAll(ctx context.Context, now, horizon time.Time) error {
	var young []reading
	d := deletion{store: e.store}
	revision, err := objects.ListRecords(ctx, e.store, eventsPrefix, raftstore.ReadOptions{Consistency: raftstore.Local}, func(rec raftstore.Record) error {
		ev, err := objects.Decode[*corev1.Event](rec)
		if err != nil {
			return err
		}
		switch at := lastSeen(ev); {
		case at.After(now): // is looked at each time, once the others of its time are due
		case at.After(horizon):
			young = append(young, reading{at, rec.ModRevision})
		default:
			return d.add(ctx, ev)
		}
		return nil
	})
	if err = errors.Join(err, d.flush(ctx)); err != nil {
		return err
	}
	slices.SortFunc(young, func(a, b reading) int { return cmp.Compare(a.revision, b.revision) })
	e.clock = thin(append(young, reading{now, revision}), horizon)
	return nil
}

// thin returns a clock from readings by revision, with one in each interval. A reading
// counts for all revisions before it, so an earlier event that was seen later delays it.
func thin(all []reading, horizon time.Time) []reading {
	clock := []reading{{horizon, 1}}
	begin, latest := horizon, horizon
	for _, r := range all {
		if r.at.After(latest) {
			latest = r.at
		}
		if latest.Sub(begin) >= eventInterval {
			clock, begin = append(clock, reading{latest, r.revision}), latest
		} else {
			clock[len(clock)-1] = reading{latest, r.revision}
		}
	}
	return clock
}

// deleteDue deletes the old ones of the events that were last written at a revision or
// before, and returns the revision of the store.
func (e *Expirer) deleteDue(ctx context.Context, due uint64, horizon time.Time) (revision uint64, err error) {
	d := deletion{store: e.store}
	revision, err = objects.ListUnchanged(ctx, e.store, eventsPrefix, due, raftstore.ReadOptions{Consistency: raftstore.Local}, func(rec raftstore.Record) error {
		ev, err := objects.Decode[*corev1.Event](rec)
		if err != nil || lastSeen(ev).After(horizon) {
			return err
		}
		return d.add(ctx, ev)
	})
	return revision, errors.Join(err, d.flush(ctx))
}

// deletion deletes events in transactions of sweepBatch.
type deletion struct {
	store objects.Store
	tx    objects.Tx
	n     int
}

func (d *deletion) add(ctx context.Context, ev *corev1.Event) error {
	d.tx.Delete(ev, objects.DeleteOptions{})
	if d.n++; d.n == sweepBatch {
		return d.flush(ctx)
	}
	return nil
}

func (d *deletion) flush(ctx context.Context) error {
	_, err := d.tx.Commit(ctx, d.store)
	d.tx, d.n = objects.Tx{}, 0
	if err != nil {
		return fmt.Errorf("delete events: %w", err)
	}
	return nil
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
