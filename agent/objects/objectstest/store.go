// Package objectstest provides a small in-memory store for tests of packages that work
// on objects. It implements the parts of raftstore's contract that these packages rely
// on (revisions, conditions, constraints, watches) with one replica and without
// goroutines, so that tests run in a synctest bubble.
//
// It does not model the rest of raftstore: leaders, consistency and compaction are
// tested in that package.
package objectstest

import (
	"context"
	"slices"
	"strings"
	"sync"

	"github.com/tidwall/btree"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Store is an in-memory objects.Store.
type Store struct {
	constraints map[constraintID]raftstore.Constraint

	mu       sync.Mutex
	revision uint64
	commits  uint64
	records  *btree.BTreeG[raftstore.Record]
	history  []raftstore.Event
	watchers map[*watcher]struct{}
	fail     error
	level    uint32
}

type constraintID struct {
	name    string
	version uint32
}

var _ objects.Store = (*Store)(nil)

// New returns an empty store that checks transactions against the constraints.
func New(constraints ...raftstore.Constraint) *Store {
	s := &Store{
		constraints: map[constraintID]raftstore.Constraint{},
		records:     btree.NewBTreeGOptions(func(a, b raftstore.Record) bool { return a.Key < b.Key }, btree.Options{NoLocks: true}),
		watchers:    map[*watcher]struct{}{},
		level:       raftstore.BaseLevel,
		revision:    1, // as in package raftstore
	}
	for _, c := range constraints {
		s.constraints[constraintID{c.Name, c.Version}] = c
	}
	return s
}

// Commits returns how many transactions have changed the store.
func (s *Store) Commits() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

// Fail makes every Commit return err, until Fail is called with nil.
func (s *Store) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = err
}

// FeatureLevel implements objects.Store.
func (s *Store) FeatureLevel() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.level
}

// SetFeatureLevel sets the feature level, which is 1 in a new store.
func (s *Store) SetFeatureLevel(level uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.level = level
}

// Keys returns the store keys below prefix, in order.
func (s *Store) Keys(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	view{s.records}.Ascend(prefix, func(r raftstore.Record) bool { keys = append(keys, r.Key); return true })
	return keys
}

// Commit implements objects.Store.
func (s *Store) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	if err := ctx.Err(); err != nil {
		return raftstore.TxnResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return raftstore.TxnResult{}, s.fail
	}
	for _, c := range t.If {
		rec, ok := s.records.Get(raftstore.Record{Key: c.Key})
		if rec.ModRevision != c.ModRevision {
			conflict := &raftstore.ConflictError{Key: c.Key, Want: c.ModRevision}
			if ok {
				conflict.Current = &rec
			}
			return raftstore.TxnResult{}, conflict
		}
	}
	next := s.records.Copy()
	rev := s.revision
	var res raftstore.TxnResult
	var events []raftstore.Event
	for _, op := range t.Ops {
		rev++
		res.OpRevisions = append(res.OpRevisions, rev)
		if ev, ok := applyOp(next, op, rev); ok {
			events = append(events, ev)
		}
	}
	for _, call := range t.Constraints {
		c, ok := s.constraints[constraintID{call.Name, call.Version}]
		if !ok {
			return raftstore.TxnResult{}, raftstore.ErrUnknownConstraint
		}
		if err := c.Check(view{next}, &t, call.Args); err != nil {
			return raftstore.TxnResult{}, &raftstore.ConstraintError{Name: call.Name, Version: call.Version, Reason: err.Error()}
		}
	}
	s.records, s.revision, res.Revision = next, rev, rev
	if len(t.Ops) > 0 {
		s.commits++
	}
	s.history = append(s.history, events...)
	for w := range s.watchers {
		w.signal()
	}
	return res, nil
}

func applyOp(tree *btree.BTreeG[raftstore.Record], op raftstore.Op, rev uint64) (raftstore.Event, bool) {
	prev, had := tree.Get(raftstore.Record{Key: op.Key})
	ev := raftstore.Event{Type: raftstore.Put, Revision: rev}
	if had {
		ev.Prev = &prev
	}
	if op.Delete {
		tree.Delete(prev)
		ev.Type, ev.Record = raftstore.Delete, raftstore.Record{Key: op.Key, ModRevision: rev}
		return ev, had
	}
	ev.Record = raftstore.Record{Key: op.Key, Value: slices.Clone(op.Value), CreateRevision: rev, ModRevision: rev}
	if had {
		ev.Record.CreateRevision = prev.CreateRevision
	}
	tree.Set(ev.Record)
	return ev, true
}

// Get implements objects.Store.
func (s *Store) Get(ctx context.Context, key string, _ raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, ok := s.records.Get(raftstore.Record{Key: key})
	if !ok {
		return raftstore.Record{}, s.revision, raftstore.ErrNotFound
	}
	return rec, s.revision, ctx.Err()
}

// List implements objects.Store. It only has the present state: a page requested at an
// older revision returns the present records.
func (s *Store) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	res := raftstore.ListResult{Revision: s.revision}
	view{s.records}.Ascend(req.Prefix, func(r raftstore.Record) bool {
		switch {
		case r.Key <= req.After || req.UnchangedSince != 0 && r.ModRevision > req.UnchangedSince:
		case req.Limit > 0 && len(res.Records) == req.Limit:
			res.More = true
			res.Remaining++
		default:
			res.Records = append(res.Records, r)
		}
		return true
	})
	return res, ctx.Err()
}

// Watch implements objects.Store.
func (s *Store) Watch(ctx context.Context, req raftstore.WatchRequest) (objects.Watcher, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &watcher{
		store: s, prefix: req.Prefix, after: req.Revision,
		events: make(chan raftstore.Event), wake: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	if req.Revision == 0 {
		w.after = s.revision
	}
	s.watchers[w] = struct{}{}
	go w.run(ctx)
	return w, nil
}

// BreakWatches ends every running watch with err.
func (s *Store) BreakWatches(err error) {
	s.mu.Lock()
	var open []*watcher
	for w := range s.watchers {
		open = append(open, w)
	}
	s.mu.Unlock()
	for _, w := range open {
		w.end(err)
		<-w.done
	}
}

// view is the state a constraint sees.
type view struct {
	tree *btree.BTreeG[raftstore.Record]
}

var _ raftstore.View = view{}

// Get implements raftstore.View.
func (v view) Get(key string) (raftstore.Record, bool) {
	return v.tree.Get(raftstore.Record{Key: key})
}

// Ascend implements raftstore.View.
func (v view) Ascend(prefix string, fn func(raftstore.Record) bool) {
	v.tree.Ascend(raftstore.Record{Key: prefix}, func(r raftstore.Record) bool {
		return strings.HasPrefix(r.Key, prefix) && fn(r)
	})
}
