package stewards

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
)

// Key names one object: namespace (empty for cluster-scoped kinds) and name.
type Key = types.NamespacedName

// Source tells a control loop which keys may need work.
type Source interface {
	// Subscribe calls fn for every key that may need work from now on, until
	// cancel is called. fn does not block. fn is also called for the keys that
	// exist already.
	Subscribe(fn func(Key)) (cancel func())
	// Keys returns the keys that exist now. The engine calls it when the
	// membership changes and at every resync.
	Keys() []Key
	// WaitForSync returns when the source has seen everything that existed
	// when it started, or with the context's error.
	WaitForSync(ctx context.Context) error
}

// RevisionSource is a Source that also knows which revision of the store named
// a key. The engine uses the revision to tell a reconciler's own writes from
// the changes of others. A key that a plain Source names always counts as
// changed by others.
type RevisionSource interface {
	Source
	// SubscribeRevisions calls fn as Subscribe does. The revision is zero where
	// it is not known.
	SubscribeRevisions(fn func(key Key, revision uint64)) (cancel func())
}

// subscribe calls fn for the keys of s, with revisions where s knows them.
func subscribe(s Source, fn func(Key, uint64)) (cancel func()) {
	if dated, ok := s.(RevisionSource); ok {
		return dated.SubscribeRevisions(fn)
	}
	return s.Subscribe(func(key Key) { fn(key, 0) })
}

// Once is a Source of one key that always exists, for work that belongs to no
// object. Its reconciler sets Result.RequeueAfter to be called again.
func Once(name string) Source { return once{Key{Name: name}} }

type once struct{ key Key }

var _ Source = once{}

// Subscribe implements Source.
func (o once) Subscribe(fn func(Key)) (cancel func()) {
	fn(o.key)
	return func() {}
}

// Keys implements Source.
func (o once) Keys() []Key { return []Key{o.key} }

// WaitForSync implements Source.
func (o once) WaitForSync(context.Context) error { return nil }
