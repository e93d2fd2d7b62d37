package objects

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"virtmesh/raftstore"
)

// Change is one change that a handler receives: Old is nil for a new object, New for a
// deleted one. Both are shared and must not be modified.
type Change[T Object] struct {
	Old, New T
	// Revision is the store revision of the change; zero if unknown, as for a deletion
	// that was detected by a list.
	Revision uint64
}

// Informer holds all objects of one kind, as the local replica has them. All methods
// may be called from any goroutine and never block on the store.
//
// Returned objects are shared: the informer replaces them and never modifies them, and
// callers must not either.
type Informer[T Object] struct {
	kind *Kind
	log  *slog.Logger
	refl *reflector

	mu       sync.RWMutex
	items    map[Key]T
	handlers map[int]func(Change[T])
	nextID   int
	synced   chan struct{} // closed after the first list
	isSynced bool
	// delivery serialises the calls of handlers, so that changes, and the existing
	// objects passed to a new handler, never overlap.
	delivery sync.Mutex
}

func newInformer[T Object](cfg CacheConfig) *Informer[T] {
	kind := KindFor[T]()
	i := &Informer[T]{
		kind:     kind,
		log:      cfg.Logger.With("resource", kind.Resource),
		items:    map[Key]T{},
		handlers: map[int]func(Change[T]){},
		synced:   make(chan struct{}),
	}
	i.refl = &reflector{
		store: cfg.Store, prefix: kind.Prefix(), sink: i, log: i.log,
		retryMin: cfg.RetryMin, retryMax: cfg.RetryMax,
	}
	return i
}

func (i *Informer[T]) run(ctx context.Context) { i.refl.run(ctx) }

// WaitForSync waits until the informer has been filled once.
func (i *Informer[T]) WaitForSync(ctx context.Context) error {
	select {
	case <-i.synced:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Get returns one object.
func (i *Informer[T]) Get(key Key) (T, bool) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	o, ok := i.items[key]
	return o, ok
}

// List returns the objects of a namespace, or all if it is empty, ordered by key.
func (i *Informer[T]) List(namespace string) []T {
	i.mu.RLock()
	defer i.mu.RUnlock()
	var out []T
	for key, o := range i.items {
		if namespace == "" || key.Namespace == namespace {
			out = append(out, o)
		}
	}
	sortObjects(out)
	return out
}

// Keys returns the keys of all objects, in no order.
func (i *Informer[T]) Keys() []Key {
	i.mu.RLock()
	defer i.mu.RUnlock()
	return slices.Collect(maps.Keys(i.items))
}

// AddHandler calls fn for every object that exists now, and then for every change, one
// call at a time and in the order of the changes, until cancel is called. fn must
// return quickly and must not call AddHandler or cancel.
func (i *Informer[T]) AddHandler(fn func(Change[T])) (cancel func()) {
	i.delivery.Lock()
	defer i.delivery.Unlock()
	i.mu.Lock()
	id := i.nextID
	i.nextID++
	i.handlers[id] = fn
	existing := slices.Collect(maps.Values(i.items))
	i.mu.Unlock()
	for _, o := range existing {
		fn(Change[T]{New: o, Revision: revisionOf(o)})
	}
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.handlers, id)
	}
}

// Subscribe calls fn with the key of every existing object and of every change, so that
// an informer can be a source of keys for a control loop.
func (i *Informer[T]) Subscribe(fn func(Key)) (cancel func()) {
	return i.SubscribeRevisions(func(key Key, _ uint64) { fn(key) })
}

// SubscribeRevisions is Subscribe with the revision of the change as a second argument;
// it is zero if unknown.
func (i *Informer[T]) SubscribeRevisions(fn func(Key, uint64)) (cancel func()) {
	return i.AddHandler(func(c Change[T]) {
		if c.isDelete() {
			fn(KeyOf(c.Old), c.Revision)
		} else {
			fn(KeyOf(c.New), c.Revision)
		}
	})
}

// revisionOf returns the revision of o, zero if it has no valid one.
func revisionOf(o Object) uint64 {
	revision, err := Revision(o)
	if err != nil {
		return 0
	}
	return revision
}

// isDelete reports whether the object was deleted. New is then a typed nil, which only
// equals the zero value of its type.
func (c Change[T]) isDelete() bool {
	var none T
	return any(c.New) == any(none)
}

// Apply implements Sink.
func (i *Informer[T]) Apply(ev raftstore.Event) {
	key, ok := i.kind.ParseKey(ev.Record.Key)
	if !ok {
		return
	}
	var o T
	if ev.Type == raftstore.Put {
		var err error
		if o, err = Decode[T](ev.Record); err != nil {
			// One unreadable object must not hide the others; the last readable
			// version stays.
			i.log.Error("skipping an object that cannot be decoded", "key", key.String(), "err", err)
			return
		}
	}
	i.delivery.Lock()
	defer i.delivery.Unlock()
	change := i.setObject(key, o, ev.Type == raftstore.Put)
	change.Revision = ev.Revision
	i.deliverChange(change)
}

// Reset implements Sink: it passes to the handlers the differences between the known
// objects and the new list.
func (i *Informer[T]) Reset(recs []raftstore.Record, _ uint64) {
	i.delivery.Lock()
	defer i.delivery.Unlock()
	seen := make(map[Key]struct{}, len(recs))
	for _, rec := range recs {
		key, ok := i.kind.ParseKey(rec.Key)
		if !ok {
			continue
		}
		seen[key] = struct{}{}
		o, err := Decode[T](rec)
		if err != nil {
			i.log.Error("skipping an object that cannot be decoded", "key", key.String(), "err", err)
			continue
		}
		if have, ok := i.Get(key); ok && have.GetResourceVersion() == o.GetResourceVersion() {
			continue
		}
		change := i.setObject(key, o, true)
		change.Revision = rec.ModRevision
		i.deliverChange(change)
	}
	for _, key := range i.Keys() {
		if _, ok := seen[key]; !ok {
			var none T
			i.deliverChange(i.setObject(key, none, false))
		}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isSynced {
		i.isSynced = true
		close(i.synced)
	}
}

// setObject stores or deletes one object and returns the change.
func (i *Informer[T]) setObject(key Key, o T, exists bool) Change[T] {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.items[key]
	if exists {
		i.items[key] = o
	} else {
		delete(i.items, key)
	}
	return Change[T]{Old: old, New: o}
}

// deliverChange calls the handlers. The caller holds i.delivery.
func (i *Informer[T]) deliverChange(c Change[T]) {
	i.mu.RLock()
	ids := slices.Sorted(maps.Keys(i.handlers))
	fns := make([]func(Change[T]), 0, len(ids))
	for _, id := range ids {
		fns = append(fns, i.handlers[id])
	}
	i.mu.RUnlock()
	for _, fn := range fns {
		fn(c)
	}
}

func sortObjects[T Object](objs []T) {
	slices.SortFunc(objs, func(a, b T) int { return CompareKeys(KeyOf(a), KeyOf(b)) })
}
