package objects

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"virtmesh/raftstore"
)

// Transformer changes values on their way to the replicated store and back; it is for
// encryption at rest. All code above it works with plain values. The log, snapshots,
// backups and other hosts hold what Seal returned. It is called concurrently.
//
// Constraints read the stored values, so a Transformer must not change the values that
// they read: those of claims.
type Transformer interface {
	// Touches reports whether the value at a store key that begins with prefix may be
	// changed. It must return the same each time.
	Touches(prefix string) bool
	// Seal returns the bytes to store at storeKey for a plain value, and the condition under
	// which they may be stored; a condition without a key is none. It must not keep or
	// change plain. Sealing a value twice may give different bytes, and sealing a sealed
	// value returns it.
	Seal(ctx context.Context, storeKey string, plain []byte) ([]byte, raftstore.Condition, error)
	// Open is the inverse of Seal, for several records, whose values are expanded. A value
	// that nobody can open is nil. An error means that nobody who could open them was
	// reached. It may block on the network until ctx ends.
	Open(ctx context.Context, records []raftstore.Record) ([][]byte, error)
}

// Replica is a replicated store that holds objects. Controllers and the API read and
// write all objects through it. It is safe for concurrent use.
type Replica struct {
	store Raft
	by    Transformer
	opens bool
	turns turns
}

var _ Store = (*Replica)(nil)

// FromRaft returns s as a Store. The Transformer by seals and opens the values; if it
// is nil, values are stored as they are.
func FromRaft(s Raft, by Transformer) *Replica { return &Replica{store: s, by: by, opens: by != nil} }

// SealedFromRaft returns s as a Store for those who need no secrets: what they write is
// sealed, and what they read is as it is stored, with its metadata readable.
func SealedFromRaft(s Raft, by Transformer) *Replica { return &Replica{store: s, by: by} }

// Revision returns the newest revision that the local replica has applied.
func (r *Replica) Revision() uint64 { return r.store.Revision() }

// FeatureLevel implements Store.
func (r *Replica) FeatureLevel() uint32 { return r.store.FeatureLevel() }

// maxSealings is how often a transaction is sealed again because meanwhile other values are
// sealed with another key. Keys are rotated by people.
const maxSealings = 5

// Commit implements Store. To a transaction that writes objects of kinds with planners it adds
// what these plan.
func (r *Replica) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	d, err := r.newDraft(ctx, t)
	if err != nil {
		return raftstore.TxnResult{}, err
	}
	if d != nil {
		return d.commit(ctx)
	}
	return r.commitSealed(ctx, t)
}

// commitSealed commits a transaction with sealed values.
func (r *Replica) commitSealed(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if r.by == nil {
		return r.store.Commit(ctx, t)
	}
	for sealings := 1; ; sealings++ {
		sealed, while, err := r.seal(ctx, t)
		if err != nil {
			return raftstore.TxnResult{}, err
		}
		res, err := r.store.Commit(ctx, sealed)
		var conflict *raftstore.ConflictError
		if !errors.As(err, &conflict) {
			return res, err
		}
		if conflict.Key == while.Key && sealings < maxSealings {
			if err := r.awaitCurrent(ctx, *conflict); err != nil {
				return raftstore.TxnResult{}, err
			}
			if t.RequestID != "" {
				t.RequestID += "+" // the store remembers that it has refused the other one
			}
			continue
		}
		return res, r.openConflict(ctx, conflict)
	}
}

// seal returns a transaction with sealed values, and the condition that it adds.
func (r *Replica) seal(ctx context.Context, t raftstore.Txn) (raftstore.Txn, raftstore.Condition, error) {
	t.Ops = slices.Clone(t.Ops)
	var while raftstore.Condition
	for i, op := range t.Ops {
		if op.Delete || !r.by.Touches(op.Key) {
			continue
		}
		value, under, err := r.by.Seal(ctx, op.Key, op.Value)
		if err != nil {
			return t, while, fmt.Errorf("seal %s: %w", op.Key, err)
		}
		t.Ops[i].Value = value
		if under.Key != "" && while.Key == "" {
			while = under
			t.If = append(slices.Clip(t.If), under)
		}
	}
	return t, while, nil
}

// awaitCurrent waits until the local replica has the record that refused a transaction.
func (r *Replica) awaitCurrent(ctx context.Context, conflict raftstore.ConflictError) error {
	if conflict.Current == nil {
		return nil
	}
	at := raftstore.ReadOptions{Consistency: raftstore.Local, MinRevision: conflict.Current.ModRevision}
	if _, _, err := r.store.Get(ctx, conflict.Key, at); err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return fmt.Errorf("read %s: %w", conflict.Key, err)
	}
	return nil
}

// openConflict returns a lost race with what is there in plain.
func (r *Replica) openConflict(ctx context.Context, conflict *raftstore.ConflictError) error {
	if conflict.Current == nil || !r.opens || !r.by.Touches(conflict.Key) {
		return conflict
	}
	current, err := r.openAll(ctx, []raftstore.Record{*conflict.Current})
	if err != nil {
		return fmt.Errorf("open %s: %w", conflict.Key, err)
	}
	opened := *conflict
	opened.Current = &current[0]
	return &opened
}

// Get implements Store.
func (r *Replica) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	rec, rev, err := r.store.Get(ctx, key, opts)
	if err != nil || !r.opens || !r.by.Touches(key) {
		return rec, rev, err
	}
	rec = rec.Expand()
	values, err := r.by.Open(ctx, []raftstore.Record{rec})
	if err == nil && values[0] == nil {
		err = errors.New("no key of this mesh opens it at this place")
	}
	if err != nil {
		return raftstore.Record{}, rev, fmt.Errorf("open %s: %w", key, err)
	}
	return rec.WithValue(values[0]), rev, nil
}

// List implements Store. A record that nobody can open is returned as it is stored, so
// that the code that decodes it reports the error.
func (r *Replica) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	res, err := r.store.List(ctx, req)
	if err != nil || !r.opens || !r.by.Touches(req.Prefix) {
		return res, err
	}
	if res.Records, err = r.openAll(ctx, res.Records); err != nil {
		return raftstore.ListResult{}, fmt.Errorf("open %s: %w", req.Prefix, err)
	}
	return res, nil
}

// openedTogether is how many records of a scan are opened at a time.
const openedTogether = 100

// Scan returns the records below a prefix, as List does but without copying them: the
// caller expands each as it takes it (raftstore.Record.Expand). They are all from the
// state at the returned revision, however long the caller takes. Of a kind that may be
// sealed they are opened before Scan returns.
func (r *Replica) Scan(ctx context.Context, prefix string, o raftstore.ReadOptions) (iter.Seq[raftstore.Record], uint64, error) {
	records, rev, err := r.store.Scan(ctx, prefix, o)
	if err != nil || !r.opens || !r.by.Touches(prefix) {
		return records, rev, err
	}
	var opened []raftstore.Record
	for chunk := range chunks(records, openedTogether) {
		some, err := r.openAll(ctx, chunk)
		if err != nil {
			return nil, rev, fmt.Errorf("open %s: %w", prefix, err)
		}
		opened = append(opened, some...)
	}
	return slices.Values(opened), rev, nil
}

// chunks returns the records of a sequence, n at a time.
func chunks(records iter.Seq[raftstore.Record], n int) iter.Seq[[]raftstore.Record] {
	return func(yield func([]raftstore.Record) bool) {
		var chunk []raftstore.Record
		for rec := range records {
			if chunk = append(chunk, rec); len(chunk) == n {
				if !yield(chunk) {
					return
				}
				chunk = nil
			}
		}
		if len(chunk) > 0 {
			yield(chunk)
		}
	}
}

// Watch implements Store. It handles a record that nobody can open like List. When those who
// could open a record are not reached, the watch ends with the error.
func (r *Replica) Watch(ctx context.Context, req raftstore.WatchRequest) (Watcher, error) {
	w, err := r.store.Watch(ctx, req)
	if err != nil {
		return nil, err
	}
	if !r.opens || !r.by.Touches(req.Prefix) {
		return w, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	o := &openingWatcher{Watcher: w, events: make(chan raftstore.Event), stopped: ctx.Done(), stop: cancel}
	go o.openEvents(ctx, r)
	return o, nil
}

// openAll opens the values of records. One that nobody can open is unchanged.
func (r *Replica) openAll(ctx context.Context, records []raftstore.Record) ([]raftstore.Record, error) {
	records = slices.Clone(records)
	for i, rec := range records {
		records[i] = rec.Expand()
	}
	values, err := r.by.Open(ctx, records)
	if err != nil {
		return nil, err
	}
	for i, value := range values {
		if value != nil {
			records[i] = records[i].WithValue(value)
		}
	}
	return records, nil
}
