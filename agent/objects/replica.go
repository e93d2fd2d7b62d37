package objects

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"

	"virtmesh/raftstore"
)

// Transformer changes values on their way to the replicated store and back; it is for
// encryption at rest. All code above it works with plain values. The log, snapshots,
// backups and other hosts hold what Seal returned. It is called concurrently.
//
// Constraints read the stored values, so a Transformer must not change the values that
// they read: those of claims.
type Transformer interface {
	// Seal returns the bytes to store at storeKey for a plain value. It must not keep
	// or change plain. Sealing a value twice may give different bytes.
	Seal(storeKey string, plain []byte) ([]byte, error)
	// Open is the inverse of Seal.
	Open(storeKey string, stored []byte) ([]byte, error)
}

// Replica is a replicated store that holds objects. Controllers and the API read and
// write all objects through it. It is safe for concurrent use.
type Replica struct {
	store Raft
	by    Transformer
}

var _ Store = (*Replica)(nil)

// FromRaft returns s as a Store. The Transformer by seals and opens the values; if it
// is nil, values are stored as they are.
func FromRaft(s Raft, by Transformer) *Replica { return &Replica{store: s, by: by} }

// Revision returns the newest revision that the local replica has applied.
func (r *Replica) Revision() uint64 { return r.store.Revision() }

// FeatureLevel implements Store.
func (r *Replica) FeatureLevel() uint32 { return r.store.FeatureLevel() }

// Commit implements Store.
func (r *Replica) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if r.by == nil {
		return r.store.Commit(ctx, t)
	}
	t.Ops = slices.Clone(t.Ops)
	for i, op := range t.Ops {
		if op.Delete {
			continue
		}
		value, err := r.by.Seal(op.Key, op.Value)
		if err != nil {
			return raftstore.TxnResult{}, fmt.Errorf("seal %s: %w", op.Key, err)
		}
		t.Ops[i].Value = value
	}
	res, err := r.store.Commit(ctx, t)
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) && conflict.Current != nil {
		opened := *conflict
		current := r.openRecord(*conflict.Current)
		opened.Current = &current
		return res, &opened
	}
	return res, err
}

// Get implements Store.
func (r *Replica) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	rec, rev, err := r.store.Get(ctx, key, opts)
	if err != nil || r.by == nil {
		return rec, rev, err
	}
	value, err := r.by.Open(rec.Key, rec.Value)
	if err != nil {
		return raftstore.Record{}, rev, fmt.Errorf("open %s: %w", key, err)
	}
	return rec.WithValue(value), rev, nil
}

// List implements Store. A record that cannot be opened is returned as it is stored, so
// that the code that decodes it reports the error and continues with the others.
func (r *Replica) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	res, err := r.store.List(ctx, req)
	if err != nil || r.by == nil {
		return res, err
	}
	res.Records = slices.Clone(res.Records)
	for i, rec := range res.Records {
		res.Records[i] = r.openRecord(rec)
	}
	return res, nil
}

// Scan returns the records below a prefix, as List does but without copying them: the
// caller expands each as it takes it (raftstore.Record.Expand). They are all from the
// state at the returned revision, however long the caller takes.
func (r *Replica) Scan(ctx context.Context, prefix string, o raftstore.ReadOptions) (iter.Seq[raftstore.Record], uint64, error) {
	records, rev, err := r.store.Scan(ctx, prefix, o)
	if err != nil || r.by == nil {
		return records, rev, err
	}
	return func(yield func(raftstore.Record) bool) {
		for rec := range records {
			if !yield(r.openRecord(rec)) {
				return
			}
		}
	}, rev, nil
}

// Watch implements Store. It handles a record that cannot be opened like List.
func (r *Replica) Watch(ctx context.Context, req raftstore.WatchRequest) (Watcher, error) {
	w, err := r.store.Watch(ctx, req)
	if err != nil {
		return nil, err
	}
	if r.by == nil {
		return w, nil
	}
	o := &openingWatcher{Watcher: w, events: make(chan raftstore.Event), stopped: make(chan struct{})}
	go o.run(r)
	return o, nil
}

// openRecord opens the value of a record, or returns the record unchanged if that
// fails.
func (r *Replica) openRecord(rec raftstore.Record) raftstore.Record {
	rec = rec.Expand()
	if value, err := r.by.Open(rec.Key, rec.Value); err == nil {
		return rec.WithValue(value)
	}
	return rec
}

// openingWatcher opens the records of another watcher's events.
type openingWatcher struct {
	Watcher
	events  chan raftstore.Event
	stopped chan struct{}
	once    sync.Once
}

func (o *openingWatcher) run(r *Replica) {
	defer close(o.events)
	for ev := range o.Watcher.Events() {
		if ev.Type == raftstore.Put {
			ev.Record = r.openRecord(ev.Record)
		}
		if ev.Prev != nil {
			prev := r.openRecord(*ev.Prev)
			ev.Prev = &prev
		}
		select {
		case o.events <- ev:
		case <-o.stopped:
			return
		}
	}
}

// Events implements Watcher.
func (o *openingWatcher) Events() <-chan raftstore.Event { return o.events }

// Stop implements Watcher.
func (o *openingWatcher) Stop() {
	o.once.Do(func() { close(o.stopped) })
	o.Watcher.Stop()
}
