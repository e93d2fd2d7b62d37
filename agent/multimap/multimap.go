// Package multimap maps keys to sets of values, most of which have one value: the volumes
// of an instance, the objects that an object owns. Such a set takes no map of its own,
// which is what ten thousand of them would mostly consist of.
package multimap

import "iter"

// Map maps each key to a set of values. The zero value is empty. It is not safe for
// concurrent use.
type Map[K, V comparable] struct {
	first map[K]V
	more  map[K]map[V]struct{} // the others, of the keys that have some
}

// Add adds a value to the set of key.
func (m *Map[K, V]) Add(key K, value V) {
	first, ok := m.first[key]
	switch {
	case !ok:
		if m.first == nil {
			m.first = map[K]V{}
		}
		m.first[key] = value
	case first != value:
		if m.more == nil {
			m.more = map[K]map[V]struct{}{}
		}
		if m.more[key] == nil {
			m.more[key] = map[V]struct{}{}
		}
		m.more[key][value] = struct{}{}
	}
}

// Remove removes a value from the set of key.
func (m *Map[K, V]) Remove(key K, value V) {
	others := m.more[key]
	first, ok := m.first[key]
	switch {
	case !ok:
		return
	case first != value:
		delete(others, value)
	case len(others) == 0:
		delete(m.first, key)
	default:
		for other := range others {
			m.first[key] = other
			delete(others, other)
			break
		}
	}
	if len(others) == 0 {
		delete(m.more, key)
	}
}

// Values returns the set of key, in no order. The map must not change until they are read.
func (m *Map[K, V]) Values(key K) iter.Seq[V] {
	return func(yield func(V) bool) {
		first, ok := m.first[key]
		if !ok || !yield(first) {
			return
		}
		for other := range m.more[key] {
			if !yield(other) {
				return
			}
		}
	}
}
