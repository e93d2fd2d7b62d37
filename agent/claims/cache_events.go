package claims

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// deliverEvents calls the handlers. The caller holds c.delivery.
func (c *Cache) deliverEvents(events ...Event) {
	c.mu.RLock()
	var fns []func(Event)
	for _, id := range slices.Sorted(maps.Keys(c.handlers)) {
		fns = append(fns, c.handlers[id])
	}
	c.mu.RUnlock()
	for _, ev := range events {
		for _, fn := range fns {
			fn(ev)
		}
	}
}

// diff returns an event for each key that was added, changed or removed from old to now.
// event makes it from the key and its values, of which the missing one is nil.
func diff[K comparable, V any](old, now map[K]V, same func(a, b V) bool, event func(key K, before, after *V) Event) []Event {
	var out []Event
	for key, v := range now {
		if before := lookup(old, key); before == nil || !same(*before, v) {
			out = append(out, event(key, before, &v))
		}
	}
	for key, v := range old {
		if _, ok := now[key]; !ok {
			out = append(out, event(key, &v, nil))
		}
	}
	return out
}

func diffInstances(old, now map[types.UID]Instance) []Event {
	return diff(old, now, func(a, b Instance) bool { return a.Revision == b.Revision }, func(_ types.UID, before, after *Instance) Event {
		return Event{Instance: &InstanceChange{Old: before, New: after}}
	})
}

func diffCapacities(old, now map[string]Capacity) []Event {
	return diff(old, now, func(a, b Capacity) bool { return a.Revision == b.Revision }, func(_ string, before, after *Capacity) Event {
		return Event{Capacity: &CapacityChange{Old: before, New: after}}
	})
}

func diffGuards(old, now map[string]uint64) []Event {
	return diff(old, now, func(a, b uint64) bool { return a == b }, func(namespace string, _, after *uint64) Event {
		change := &GuardChange{Namespace: namespace}
		if after != nil {
			change.Revision = *after
		}
		return Event{Guard: change}
	})
}

func diffQuarantine(old, now map[string]Quarantine) []Event {
	return diff(old, now, func(a, b Quarantine) bool { return a.Revision == b.Revision }, func(host string, _, _ *Quarantine) Event {
		return Event{Quarantine: &host}
	})
}
