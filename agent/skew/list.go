package skew

import (
	"encoding/json"
	"reflect"
)

// nothing marks an element of a list that was not in the list before.
const nothing = -1

// usualKeys are the fields by which the elements of most lists are told apart, in the
// order in which they are tried, where the type names none.
var usualKeys = []string{"name", "type"}

// matching pairs the elements of a list that is written with those it had before. The
// lists may come from clients, so it takes no more than linear time.
type matching struct {
	k, w []any
	from []int  // for each element of w the element of k that it was, or nothing
	used []bool // the elements of k that have a pair
}

// matchElements returns for each element of w the index of the element of k that it was,
// or nothing.
func matchElements(mergeKey string, k, w []any) []int {
	m := &matching{k: k, w: w, from: make([]int, len(w)), used: make([]bool, len(k))}
	for i := range m.from {
		m.from[i] = nothing
	}
	named := m.pairByKey(mergeKey)
	m.pairEqual()
	if len(k) == len(w) {
		for i := range w {
			if m.isFree(i, i) && !named(k[i]) && !named(w[i]) {
				m.pair(i, i)
			}
		}
	}
	return m.from
}

func (m *matching) pair(i, j int) { m.from[i], m.used[j] = j, true }

// isFree reports whether neither w[i] nor k[j] has a pair.
func (m *matching) isFree(i, j int) bool { return m.from[i] == nothing && !m.used[j] }

// pairByKey pairs the elements with the same key, and returns whether an element has a
// key of its own. If it has, it is no other element than the one with that key.
func (m *matching) pairByKey(mergeKey string) (named func(any) bool) {
	before, after, field := m.keys(mergeKey)
	single := func(key any) bool {
		return key != nil && len(before[key]) <= 1 && len(after[key]) <= 1
	}
	for key, i := range after {
		if j := before[key]; single(key) && len(j) == 1 {
			m.pair(i[0], j[0])
		}
	}
	return func(element any) bool { return single(keyOf(element, field)) }
}

// keys returns the elements of k and w by their keys, and the field that is the key: the
// one that the type names, or else a usual one that all elements have, each another.
func (m *matching) keys(mergeKey string) (before, after map[any][]int, field string) {
	if mergeKey != "" {
		before, _ = indexByKey(m.k, mergeKey)
		after, _ = indexByKey(m.w, mergeKey)
		return before, after, mergeKey
	}
	for _, usual := range usualKeys {
		var distinct, distinctToo bool
		before, distinct = indexByKey(m.k, usual)
		after, distinctToo = indexByKey(m.w, usual)
		if distinct && distinctToo {
			return before, after, usual
		}
	}
	return nil, nil, ""
}

// indexByKey returns the elements by their keys, and whether each has one of its own.
func indexByKey(list []any, field string) (index map[any][]int, distinct bool) {
	index = make(map[any][]int, len(list))
	for i, element := range list {
		if key := keyOf(element, field); key != nil {
			index[key] = append(index[key], i)
		}
	}
	return index, len(index) == len(list)
}

// keyOf returns the value of an element's key, nil if it has none.
func keyOf(element any, field string) any {
	object, ok := element.(map[string]any)
	if !ok || field == "" {
		return nil
	}
	switch key := object[field].(type) {
	case string, json.Number:
		return key
	}
	return nil
}

// pairEqual pairs equal elements, first those in the same place.
func (m *matching) pairEqual() {
	for i := range min(len(m.k), len(m.w)) {
		if m.isFree(i, i) && reflect.DeepEqual(m.k[i], m.w[i]) {
			m.pair(i, i)
		}
	}
	left := map[string][]int{} // elements of k without a pair, by their text
	for j, element := range m.k {
		if !m.used[j] {
			text := textOf(element)
			left[text] = append(left[text], j)
		}
	}
	for i, element := range m.w {
		if len(left) == 0 {
			return
		}
		if m.from[i] != nothing {
			continue
		}
		text := textOf(element)
		if same := left[text]; len(same) > 0 {
			m.pair(i, same[0])
			left[text] = same[1:]
		}
	}
}

// textOf returns the same text for equal values. Values that were parsed from JSON can
// be encoded.
func textOf(v any) string {
	text, _ := json.Marshal(v)
	return string(text)
}
