package executor

import (
	"slices"
	"sync"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards"
)

// traces holds the instances that may have left something on this host besides a
// domain: disks, addresses, a preparation under way. Such leftovers are cleaned up
// like an orphaned domain, even if no domain is left.
type traces struct {
	mu    sync.Mutex
	byKey map[stewards.Key][]hypervisor.Ref
}

func newTraces() *traces { return &traces{byKey: map[stewards.Key][]hypervisor.Ref{}} }

// addInstance adds an instance that may leave something on this host.
func (t *traces) addInstance(ref hypervisor.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := keyOf(ref)
	if !slices.Contains(t.byKey[key], ref) {
		t.byKey[key] = append(t.byKey[key], ref)
	}
}

// of returns all instances, present and past, that have the name.
func (t *traces) of(key stewards.Key) []hypervisor.Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.byKey[key])
}

// has reports whether the instance may have left something on this host.
func (t *traces) has(ref hypervisor.Ref) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.byKey[keyOf(ref)], ref)
}

// removeInstance removes an instance of which nothing is left on this host.
func (t *traces) removeInstance(ref hypervisor.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := keyOf(ref)
	t.byKey[key] = slices.DeleteFunc(t.byKey[key], func(r hypervisor.Ref) bool { return r == ref })
	if len(t.byKey[key]) == 0 {
		delete(t.byKey, key)
	}
}

// keys returns the names of all instances in traces.
func (t *traces) keys() []stewards.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([]stewards.Key, 0, len(t.byKey))
	for key := range t.byKey {
		keys = append(keys, key)
	}
	return keys
}
