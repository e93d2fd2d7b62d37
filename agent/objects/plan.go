package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

const (
	// maxPlans is how often planners are asked for one transaction, while others change the
	// records that they plan with.
	maxPlans = 30
	// planPause bounds the pause before a planner is asked again. Hosts that write the same
	// record wait for different times.
	planPause = 20 * time.Millisecond
)

// draft is a transaction that writes objects of kinds with planners.
type draft struct {
	replica *Replica
	txn     raftstore.Txn
	changes []kinds.Change
	// records are what the planners plan with, nil for those that do not exist.
	records map[string]*raftstore.Record
	// confirmed is whether the records are as the mesh has them, and not only this host. A
	// refusal is told once they are.
	confirmed bool
}

// newDraft returns the draft of a transaction, nil if no planner has to be asked.
func (r *Replica) newDraft(ctx context.Context, t raftstore.Txn) (*draft, error) {
	d := &draft{replica: r, txn: t, records: map[string]*raftstore.Record{}}
	for _, op := range t.Ops {
		kind, key, ok := kinds.ParseStoreKey(op.Key)
		if !ok || len(kind.Planners) == 0 {
			continue
		}
		change, err := d.changeOf(ctx, kind, key, op)
		if err != nil {
			return nil, err
		}
		d.changes = append(d.changes, change)
		for _, planner := range kind.Planners {
			for _, name := range planner.Reads(key) {
				d.records[name] = nil
			}
		}
	}
	if len(d.changes) == 0 {
		return nil, nil
	}
	return d, d.read(ctx, raftstore.Local)
}

// changeOf describes an operation for planners. What an object was before is known by the
// condition on it, so there must be one.
func (d *draft) changeOf(ctx context.Context, kind *Kind, key Key, op raftstore.Op) (kinds.Change, error) {
	at := slices.IndexFunc(d.txn.If, func(c raftstore.Condition) bool { return c.Key == op.Key })
	if at < 0 {
		return kinds.Change{}, fmt.Errorf("write %s: objects of kind %s are written only on condition of their revision", op.Key, kind.GVK.Kind)
	}
	c := kinds.Change{Kind: kind, Key: key, Level: d.replica.FeatureLevel()}
	if was := d.txn.If[at]; was.ModRevision != 0 {
		c.Old = func() (Object, error) { return d.replica.readObjectAt(ctx, kind, was) }
	}
	if !op.Delete {
		c.New = func() (Object, error) { return readable(kind, raftstore.Record{Key: op.Key, Value: op.Value}) }
	}
	return c, nil
}

// readObjectAt returns the object at the revision that a transaction requires. If the local
// replica has a newer one, the transaction has lost a race.
func (r *Replica) readObjectAt(ctx context.Context, kind *Kind, was raftstore.Condition) (Object, error) {
	rec, _, err := r.Get(ctx, was.Key, raftstore.ReadOptions{Consistency: raftstore.Local, MinRevision: was.ModRevision})
	switch {
	case errors.Is(err, raftstore.ErrNotFound):
		return nil, &raftstore.ConflictError{Key: was.Key, Want: was.ModRevision}
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", was.Key, err)
	case rec.ModRevision != was.ModRevision:
		return nil, &raftstore.ConflictError{Key: was.Key, Want: was.ModRevision, Current: &rec}
	}
	return readable(kind, rec)
}

// readable decodes a record for planners.
func readable(kind *Kind, rec raftstore.Record) (Object, error) {
	o, err := decodeRecord(kind, rec)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kinds.ErrUnreadable, err)
	}
	return o, nil
}

// read reads the records that the planners plan with.
func (d *draft) read(ctx context.Context, how raftstore.Consistency) error {
	for key := range d.records {
		rec, _, err := d.replica.Get(ctx, key, raftstore.ReadOptions{Consistency: how})
		switch {
		case errors.Is(err, raftstore.ErrNotFound):
			d.records[key] = nil
		case err != nil:
			return fmt.Errorf("read %s: %w", key, err)
		default:
			d.records[key] = &rec
		}
	}
	d.confirmed = how == raftstore.Linearizable
	return nil
}

// plan asks the planners. It returns their refusal only once the records are confirmed.
func (d *draft) plan(ctx context.Context) (*kinds.Plan, error) {
	p, err := d.ask()
	if err == nil || d.confirmed || LostRace(err) {
		return p, err
	}
	if err := d.read(ctx, raftstore.Linearizable); err != nil {
		return nil, err
	}
	return d.ask()
}

func (d *draft) ask() (*kinds.Plan, error) {
	values := make(map[string][]byte, len(d.records))
	for key, rec := range d.records {
		values[key] = nil
		if rec != nil {
			values[key] = rec.Value
		}
	}
	p := kinds.NewPlan(values)
	for _, c := range d.changes {
		for _, planner := range c.Kind.Planners {
			if err := planner.Plan(c, p); err != nil {
				return nil, err
			}
		}
	}
	return p, p.Err()
}

// revisionOf returns the revision at which a record was read, zero if there is none.
func (d *draft) revisionOf(key string) uint64 {
	if rec := d.records[key]; rec != nil {
		return rec.ModRevision
	}
	return 0
}

// with returns the transaction with what a plan adds. Its request ID says on which records the
// plan was made: to the store, one that was made on others is another request.
func (d *draft) with(p *kinds.Plan) raftstore.Txn {
	t := d.txn
	t.If, t.Ops = slices.Clip(t.If), slices.Clip(t.Ops)
	var id strings.Builder
	id.WriteString(t.RequestID)
	for _, key := range p.Required() {
		revision := d.revisionOf(key)
		t.If = append(t.If, raftstore.Condition{Key: key, ModRevision: revision})
		id.WriteString("@" + strconv.FormatUint(revision, 36))
		value, changed := p.Written(key)
		if !changed || value == nil && revision == 0 || revision != 0 && bytes.Equal(value, d.records[key].Value) {
			continue
		}
		t.Ops = append(t.Ops, raftstore.Op{Key: key, Value: value, Delete: value == nil})
	}
	if t.RequestID != "" {
		t.RequestID = id.String()
	}
	return t
}

// writtenBy returns the keys of the records that a planned transaction writes, sorted.
func (d *draft) writtenBy(planned raftstore.Txn) (keys []string) {
	for _, op := range planned.Ops[len(d.txn.Ops):] {
		keys = append(keys, op.Key)
	}
	slices.Sort(keys)
	return keys
}

// adopt takes over the record that refused a planned transaction. It returns false if the
// transaction itself lost the race, and not its plan.
func (d *draft) adopt(err error) bool {
	var conflict *raftstore.ConflictError
	if !errors.As(err, &conflict) {
		return false
	}
	if _, ours := d.records[conflict.Key]; !ours {
		return false
	}
	d.records[conflict.Key] = conflict.Current
	return true
}

// commit commits the draft. The planners are asked again when another transaction has changed
// what they planned with, and this host's own transactions take turns at such records.
func (d *draft) commit(ctx context.Context) (raftstore.TxnResult, error) {
	var leave func()
	for tries := 1; ; tries++ {
		p, err := d.plan(ctx)
		if err != nil {
			return raftstore.TxnResult{}, err
		}
		planned := d.with(p)
		if keys := d.writtenBy(planned); leave == nil && len(keys) > 0 {
			if leave, err = d.replica.turns.enter(ctx, keys); err != nil {
				return raftstore.TxnResult{}, fault.New(fault.Unavailable, "too many changes of %s wait on this host; try again", keys[0])
			}
			defer leave()
			if err := d.read(ctx, raftstore.Local); err != nil {
				return raftstore.TxnResult{}, err
			}
			continue
		}
		res, err := d.replica.commitSealed(ctx, planned)
		if err == nil {
			res.OpRevisions = res.OpRevisions[:len(d.txn.Ops)]
			return res, nil
		}
		if !d.adopt(err) {
			return raftstore.TxnResult{}, err
		}
		if tries >= maxPlans {
			return raftstore.TxnResult{}, fault.New(fault.Conflict, "other changes of %s were committed first, %d times; try again", describeRecord(err), tries)
		}
		pause(ctx, tries)
	}
}

// describeRecord names the record of a lost race.
func describeRecord(err error) string {
	var conflict *raftstore.ConflictError
	errors.As(err, &conflict)
	return conflict.Key
}

// pause waits before planners are asked again, the longer the more often they were.
func pause(ctx context.Context, tries int) {
	limit := min(planPause, time.Millisecond<<min(tries, 10))
	timer := time.NewTimer(rand.N(limit))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Rehearse plans a transaction without committing it, and returns why planners refuse it. What
// the store itself would refuse, it does not notice.
func (r *Replica) Rehearse(ctx context.Context, t raftstore.Txn) error {
	d, err := r.newDraft(ctx, t)
	if d == nil || err != nil {
		return err
	}
	_, err = d.plan(ctx)
	return err
}
