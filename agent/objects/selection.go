package objects

import (
	"cmp"
	"maps"
	"slices"
	"sync"
)

// CompareKeys orders keys by namespace and name.
func CompareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// Selection is the part of an informer's objects for which a condition holds. It follows
// their changes, so that a task which looks at its own few objects at intervals need not
// look through those of the whole mesh.
type Selection[T Object] struct {
	informer *Informer[T]
	cancel   func()

	mu   sync.Mutex
	keys map[Key]struct{}
}

// Select returns the objects for which holds is true, which depends on the object alone.
// Close must be called when the selection is no longer needed.
func Select[T Object](i *Informer[T], holds func(T) bool) *Selection[T] {
	s := &Selection[T]{informer: i, keys: map[Key]struct{}{}}
	s.cancel = i.AddHandler(func(c Change[T]) {
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case !c.IsDelete() && holds(c.New):
			s.keys[c.Key] = struct{}{}
		default:
			delete(s.keys, c.Key)
		}
	})
	return s
}

// List returns the selected objects, ordered by key.
func (s *Selection[T]) List() []T {
	s.mu.Lock()
	keys := slices.SortedFunc(maps.Keys(s.keys), CompareKeys)
	s.mu.Unlock()
	var out []T
	for _, key := range keys {
		if o, ok := s.informer.Get(key); ok {
			out = append(out, o)
		}
	}
	return out
}

// Close ends the selection, which selects nothing afterwards.
func (s *Selection[T]) Close() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.keys)
}
