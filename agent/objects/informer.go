package objects

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"virtmesh/raftstore"
)

// Informer follows all objects of one kind, as the local replica has them. All methods
// may be called from any goroutine and never block on the store.
//
// It keeps the objects in their compact stored form and decodes them when they are asked
// for: a mesh has many times more objects than one host works on. The ones used last stay
// decoded.
//
// Returned objects are shared: the informer replaces them and never modifies them, and
// callers must not either.
type Informer[T Object] struct {
	kind *Kind
	log  *slog.Logger
	refl *reflector

	decoded *lru.Cache[Key, decodedObject[T]]

	mu       sync.RWMutex
	items    map[Key]raftstore.Record
	handlers map[int]func(Change[T])
	indexes  []*Index[T]
	nextID   int
	synced   chan struct{} // closed after the first list
	isSynced bool
	// delivery serialises the calls of handlers, so that changes, and the existing
	// objects passed to a new handler, never overlap.
	delivery sync.Mutex
}

// keptDecoded is how many objects of a kind stay decoded: more than a host has guests.
const keptDecoded = 256

// decodedObject is an object as of a revision.
type decodedObject[T Object] struct {
	object   T
	revision uint64
}

func newInformer[T Object](cfg CacheConfig) *Informer[T] {
	kind := KindFor[T]()
	decoded, err := lru.New[Key, decodedObject[T]](keptDecoded)
	if err != nil {
		panic(err) // the size is positive
	}
	i := &Informer[T]{
		kind:     kind,
		log:      cfg.Logger.With("resource", kind.Resource),
		decoded:  decoded,
		items:    map[Key]raftstore.Record{},
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
	rec, ok := i.items[key]
	i.mu.RUnlock()
	if !ok {
		var none T
		return none, false
	}
	return i.object(key, rec, true)
}

// Has reports whether there is an object, without decoding it.
func (i *Informer[T]) Has(key Key) bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	_, ok := i.items[key]
	return ok
}

// object returns the object of a record that is or was in items. keep says whether it
// stays decoded.
func (i *Informer[T]) object(key Key, rec raftstore.Record, keep bool) (T, bool) {
	if have, ok := i.decoded.Peek(key); ok && have.revision == rec.ModRevision {
		if keep {
			i.decoded.Get(key) // it was used
		}
		return have.object, true
	}
	o, err := Decode[T](rec.Expand())
	if err != nil {
		// It was decoded before it was stored.
		i.log.Error("an object cannot be decoded any more", "key", key.String(), "err", err)
		return o, false
	}
	if keep {
		i.decoded.Add(key, decodedObject[T]{o, rec.ModRevision})
	}
	return o, true
}

// List returns the objects of a namespace, or all if it is empty, ordered by key. It
// decodes them all: a loop that looks for some of the objects has an Index of them.
func (i *Informer[T]) List(namespace string) []T {
	i.mu.RLock()
	records := make(map[Key]raftstore.Record)
	for key, rec := range i.items {
		if namespace == "" || key.Namespace == namespace {
			records[key] = rec
		}
	}
	i.mu.RUnlock()
	return i.objects(records)
}

// objects returns the objects of records, ordered by key.
func (i *Informer[T]) objects(records map[Key]raftstore.Record) []T {
	var out []T
	for _, key := range slices.SortedFunc(maps.Keys(records), CompareKeys) {
		if o, ok := i.object(key, records[key], false); ok {
			out = append(out, o)
		}
	}
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
	existing := maps.Clone(i.items)
	i.mu.Unlock()
	for key, rec := range existing {
		if o, ok := i.object(key, rec, false); ok {
			fn(Change[T]{Key: key, New: o, Revision: rec.ModRevision})
		}
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
	i.delivery.Lock()
	defer i.delivery.Unlock()
	i.mu.Lock()
	id := i.nextID
	i.nextID++
	i.handlers[id] = func(c Change[T]) { fn(c.Key, c.Revision) }
	existing := maps.Clone(i.items)
	i.mu.Unlock()
	for key, rec := range existing {
		fn(key, rec.ModRevision)
	}
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.handlers, id)
	}
}

// Apply implements Sink.
func (i *Informer[T]) Apply(ev raftstore.Event) {
	key, ok := i.kind.ParseKey(ev.Record.Key)
	if !ok {
		return
	}
	i.delivery.Lock()
	defer i.delivery.Unlock()
	if ev.Type != raftstore.Put {
		i.removeRecord(key, ev.Revision)
		return
	}
	i.putRecord(key, ev.Record, true)
}

// Reset implements Sink: it passes to the handlers the differences between the known
// objects and the new list.
func (i *Informer[T]) Reset(recs []raftstore.Record, _ uint64) {
	i.delivery.Lock()
	defer i.delivery.Unlock()
	before := i.Keys()
	if len(before) == 0 {
		i.mu.Lock()
		i.items = make(map[Key]raftstore.Record, len(recs))
		i.mu.Unlock()
	}
	gone := make(map[Key]struct{}, len(before))
	for _, key := range before {
		gone[key] = struct{}{}
	}
	for _, rec := range recs {
		key, ok := i.kind.ParseKey(rec.Key)
		if !ok {
			continue
		}
		delete(gone, key)
		i.mu.RLock()
		have, known := i.items[key]
		i.mu.RUnlock()
		if !known || have.ModRevision != rec.ModRevision {
			i.putRecord(key, rec, false)
		}
	}
	for key := range gone {
		i.removeRecord(key, 0)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if !i.isSynced {
		i.isSynced = true
		close(i.synced)
	}
}

// putRecord stores a record and tells the handlers. keep says whether its object stays
// decoded. The caller holds i.delivery.
func (i *Informer[T]) putRecord(key Key, rec raftstore.Record, keep bool) {
	o, err := Decode[T](rec.Expand())
	if err != nil {
		// One unreadable object must not hide the others; the last readable version
		// stays.
		i.log.Error("skipping an object that cannot be decoded", "key", key.String(), "err", err)
		return
	}
	if keep {
		i.decoded.Add(key, decodedObject[T]{o, rec.ModRevision})
	}
	rec = rec.Compact()
	i.mu.Lock()
	old, existed := i.items[key]
	i.items[key] = rec
	named := i.updateIndexes(key, o, true)
	i.mu.Unlock()
	change := Change[T]{Key: key, New: o, Revision: rec.ModRevision}
	if existed {
		change.old = i.pastObject(key, old)
		change.Recreated = old.CreateRevision != rec.CreateRevision
	}
	i.deliverChange(change, named)
}

// removeRecord forgets an object and tells the handlers. The caller holds i.delivery.
func (i *Informer[T]) removeRecord(key Key, revision uint64) {
	i.mu.Lock()
	old, existed := i.items[key]
	delete(i.items, key)
	var none T
	named := i.updateIndexes(key, none, false)
	i.mu.Unlock()
	if !existed {
		return
	}
	change := Change[T]{Key: key, Revision: revision, old: i.pastObject(key, old)}
	i.deliverChange(change, named)
	i.decoded.Remove(key)
}

// pastObject returns the function that returns the object as it was, decoded when it is
// first called.
func (i *Informer[T]) pastObject(key Key, rec raftstore.Record) func() T {
	return sync.OnceValue(func() T {
		o, _ := i.object(key, rec, false)
		return o
	})
}

// deliverChange calls the handlers, and the subscribers of the indexes with the keys
// that the change named. The caller holds i.delivery.
func (i *Informer[T]) deliverChange(c Change[T], named map[*Index[T]][]Key) {
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
	for index, keys := range named {
		index.tellSubscribers(keys, c.Revision)
	}
}
