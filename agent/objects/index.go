package objects

import (
	"context"
	"maps"
	"slices"
	"sync"

	"virtmesh/raftstore"
)

// Index knows which keys each object of one kind names: for example, an instance names
// the virtual machine that owns it. So it is a source of keys, and finds the objects that
// name any, or one key, without decoding the others. Where the objects for which a condition
// holds name themselves, a task that looks at its own few at intervals need not look through
// those of the whole mesh.
type Index[T Object] struct {
	informer *Informer[T]
	fn       func(T) []Key

	// Guarded by informer.mu.
	named map[Key][]Key // by object; only those that name a key

	mu     sync.Mutex
	subs   map[int]func(Key, uint64)
	nextID int
}

// NewIndex returns the index by the keys that fn returns. fn must look at nothing but the
// object.
func NewIndex[T Object](informer *Informer[T], fn func(T) []Key) *Index[T] {
	x := &Index[T]{informer: informer, fn: fn, named: map[Key][]Key{}, subs: map[int]func(Key, uint64){}}
	informer.delivery.Lock()
	defer informer.delivery.Unlock()
	informer.mu.Lock()
	defer informer.mu.Unlock()
	for key, rec := range informer.items {
		if o, ok := informer.object(key, rec, false); ok {
			x.setKeys(key, fn(o))
		}
	}
	informer.indexes = append(informer.indexes, x)
	return x
}

// setKeys replaces the keys that an object names. The caller holds informer.mu.
func (x *Index[T]) setKeys(key Key, names []Key) {
	if len(names) == 0 {
		delete(x.named, key)
		return
	}
	names = slices.Clip(names)
	for i, name := range names {
		// Most names are those of the object itself, whose strings are there anyway.
		if name.Namespace == key.Namespace {
			names[i].Namespace = key.Namespace
		}
		if name.Name == key.Name {
			names[i].Name = key.Name
		}
	}
	x.named[key] = names
}

// updateIndexes notes a change of an object in all indexes, and returns the keys that the
// object named before or names now. The caller holds i.mu.
func (i *Informer[T]) updateIndexes(key Key, o T, exists bool) map[*Index[T]][]Key {
	named := make(map[*Index[T]][]Key, len(i.indexes))
	for _, x := range i.indexes {
		keys := slices.Clone(x.named[key])
		var now []Key
		if exists {
			now = x.fn(o)
		}
		for _, name := range now {
			if !slices.Contains(keys, name) {
				keys = append(keys, name)
			}
		}
		x.setKeys(key, now)
		if len(keys) > 0 {
			named[x] = keys
		}
	}
	return named
}

// List returns the objects of a namespace, or all if it is empty, that name any key. They
// are ordered by their own.
func (x *Index[T]) List(namespace string) []T {
	return x.find(func(key Key, _ []Key) bool { return namespace == "" || key.Namespace == namespace })
}

// Naming returns the objects that name the key, ordered by their own.
func (x *Index[T]) Naming(name Key) []T {
	return x.find(func(_ Key, names []Key) bool { return slices.Contains(names, name) })
}

func (x *Index[T]) find(wanted func(key Key, names []Key) bool) []T {
	records := map[Key]raftstore.Record{}
	x.informer.mu.RLock()
	for key, names := range x.named {
		if wanted(key, names) {
			records[key] = x.informer.items[key]
		}
	}
	x.informer.mu.RUnlock()
	return x.informer.objects(records)
}

// Subscribe calls fn with the keys that existing objects and changes name.
func (x *Index[T]) Subscribe(fn func(Key)) (cancel func()) {
	return x.SubscribeRevisions(func(key Key, _ uint64) { fn(key) })
}

// SubscribeRevisions is Subscribe with the revision of the change as a second argument;
// it is zero if unknown.
func (x *Index[T]) SubscribeRevisions(fn func(Key, uint64)) (cancel func()) {
	x.informer.delivery.Lock()
	defer x.informer.delivery.Unlock()
	x.mu.Lock()
	id := x.nextID
	x.nextID++
	x.subs[id] = fn
	x.mu.Unlock()
	x.informer.mu.RLock()
	named, revisions := maps.Clone(x.named), map[Key]uint64{}
	for key := range named {
		revisions[key] = x.informer.items[key].ModRevision
	}
	x.informer.mu.RUnlock()
	for key, names := range named {
		for _, name := range names {
			fn(name, revisions[key])
		}
	}
	return func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		delete(x.subs, id)
	}
}

// tellSubscribers calls the subscribers with each key. The caller holds informer.delivery.
func (x *Index[T]) tellSubscribers(keys []Key, revision uint64) {
	x.mu.Lock()
	subs := make([]func(Key, uint64), 0, len(x.subs))
	for _, id := range slices.Sorted(maps.Keys(x.subs)) {
		subs = append(subs, x.subs[id])
	}
	x.mu.Unlock()
	for _, fn := range subs {
		for _, key := range keys {
			fn(key, revision)
		}
	}
}

// Keys returns the keys that the existing objects name, each once, in no order.
func (x *Index[T]) Keys() []Key {
	x.informer.mu.RLock()
	defer x.informer.mu.RUnlock()
	distinct := map[Key]struct{}{}
	for _, names := range x.named {
		for _, name := range names {
			distinct[name] = struct{}{}
		}
	}
	return slices.Collect(maps.Keys(distinct))
}

// WaitForSync waits for the informer.
func (x *Index[T]) WaitForSync(ctx context.Context) error { return x.informer.WaitForSync(ctx) }
