package objects

import "context"

// Mapped is a source of keys of one kind that it derives from changes of another kind:
// for example, an instance names the virtual machine that owns it.
type Mapped[T Object] struct {
	informer *Informer[T]
	fn       func(Change[T]) []Key
}

// Map returns the source that calls fn for every change of the informer's objects; fn
// returns the keys that may need work because of the change.
func Map[T Object](informer *Informer[T], fn func(Change[T]) []Key) *Mapped[T] {
	return &Mapped[T]{informer: informer, fn: fn}
}

// Subscribe calls fn with the keys that existing objects and changes name.
func (m *Mapped[T]) Subscribe(fn func(Key)) (cancel func()) {
	return m.SubscribeRevisions(func(key Key, _ uint64) { fn(key) })
}

// SubscribeRevisions is Subscribe with the revision of the change as a second argument;
// it is zero if unknown.
func (m *Mapped[T]) SubscribeRevisions(fn func(Key, uint64)) (cancel func()) {
	return m.informer.AddHandler(func(c Change[T]) {
		for _, key := range m.fn(c) {
			fn(key, c.Revision)
		}
	})
}

// Keys returns the keys that the existing objects name.
func (m *Mapped[T]) Keys() []Key {
	var keys []Key
	for _, o := range m.informer.List("") {
		keys = append(keys, m.fn(Change[T]{Key: KeyOf(o), New: o})...)
	}
	return keys
}

// WaitForSync waits for the informer.
func (m *Mapped[T]) WaitForSync(ctx context.Context) error { return m.informer.WaitForSync(ctx) }
