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

func diffInstances(old, now map[types.UID]Instance) []Event {
	var out []Event
	for uid, v := range now {
		if o, ok := old[uid]; !ok || o.Revision != v.Revision {
			out = append(out, Event{Instance: &InstanceChange{Old: lookup(old, uid), New: &v}})
		}
	}
	for uid, v := range old {
		if _, ok := now[uid]; !ok {
			out = append(out, Event{Instance: &InstanceChange{Old: &v}})
		}
	}
	return out
}

func diffCapacities(old, now map[string]Capacity) []Event {
	var out []Event
	for host, v := range now {
		if o, ok := old[host]; !ok || o.Revision != v.Revision {
			out = append(out, Event{Capacity: &CapacityChange{Old: lookup(old, host), New: &v}})
		}
	}
	for host, v := range old {
		if _, ok := now[host]; !ok {
			out = append(out, Event{Capacity: &CapacityChange{Old: &v}})
		}
	}
	return out
}

func diffGuards(old, now map[string]uint64) []Event {
	var out []Event
	for ns, rev := range now {
		if old[ns] != rev {
			out = append(out, Event{Guard: &GuardChange{ns, rev}})
		}
	}
	for ns := range old {
		if _, ok := now[ns]; !ok {
			out = append(out, Event{Guard: &GuardChange{Namespace: ns}})
		}
	}
	return out
}
