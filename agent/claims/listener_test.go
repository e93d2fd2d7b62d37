package claims

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/types"
)

// listener is what a handler of the cache knows, from its events alone.
type listener struct {
	instances  map[types.UID]Instance
	capacities map[string]Capacity
	guards     map[string]uint64
	volumes    map[string]bool
	spaces     map[string]bool
	migrations map[types.UID]bool
	revision   uint64
	wrong      []string
}

func listen(c *Cache) *listener {
	l := &listener{
		instances: map[types.UID]Instance{}, capacities: map[string]Capacity{}, guards: map[string]uint64{},
		volumes: map[string]bool{}, spaces: map[string]bool{}, migrations: map[types.UID]bool{},
	}
	c.AddHandler(l.hear)
	return l
}

func (l *listener) hear(ev Event) {
	if ev.Revision != 0 && ev.Revision < l.revision {
		l.wrong = append(l.wrong, fmt.Sprintf("revision %d after %d", ev.Revision, l.revision))
	}
	l.revision = max(l.revision, ev.Revision)
	switch {
	case ev.Instance != nil:
		l.wrong = append(l.wrong, heard(l.instances, ev.Instance.Old, ev.Instance.New, func(in Instance) types.UID { return in.UID })...)
	case ev.Capacity != nil:
		l.wrong = append(l.wrong, heard(l.capacities, ev.Capacity.Old, ev.Capacity.New, func(c Capacity) string { return c.Host })...)
	case ev.Guard != nil && ev.Guard.Revision == 0:
		delete(l.guards, ev.Guard.Namespace)
	case ev.Guard != nil:
		l.guards[ev.Guard.Namespace] = ev.Guard.Revision
	case ev.Volume != nil:
		l.volumes[ev.Volume.Name] = true
	case ev.Space != nil:
		l.spaces[*ev.Space] = true
	case ev.Migration != nil:
		l.migrations[*ev.Migration] = true
	}
}

// heard takes a change over, and says what is wrong with it.
func heard[K comparable, V any](known map[K]V, old, now *V, keyOf func(V) K) (wrong []string) {
	if old == nil && now == nil {
		return []string{"a change of nothing"}
	}
	either := now
	if now == nil {
		either = old
	}
	key := keyOf(*either)
	if before, ok := known[key]; ok != (old != nil) || ok && !reflect.DeepEqual(before, *old) {
		wrong = append(wrong, fmt.Sprintf("%v: told that it was %+v, knew %+v", key, old, before))
	}
	if delete(known, key); now != nil {
		known[key] = *now
	}
	return wrong
}
