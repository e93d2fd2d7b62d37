package executor

import (
	"slices"
	"sync"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards"
)

// traces are the instances that may have left something on this host besides a
// domain: disks, addresses, a preparation under way. An instance of which
// nothing but that is left is cleaned up as an orphan's domain is.
type traces struct {
	mu    sync.Mutex
	byKey map[stewards.Key][]hypervisor.Ref
}

func newTraces() *traces { return &traces{byKey: map[stewards.Key][]hypervisor.Ref{}} }

func (t *traces) add(ref hypervisor.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := keyOf(ref)
	if !slices.Contains(t.byKey[key], ref) {
		t.byKey[key] = append(t.byKey[key], ref)
	}
}

// of returns the instances that bore the name.
func (t *traces) of(key stewards.Key) []hypervisor.Ref {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.byKey[key])
}

// has tells whether the instance left traces.
func (t *traces) has(ref hypervisor.Ref) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Contains(t.byKey[keyOf(ref)], ref)
}

// forget is called when nothing of the instance is left.
func (t *traces) forget(ref hypervisor.Ref) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := keyOf(ref)
	t.byKey[key] = slices.DeleteFunc(t.byKey[key], func(r hypervisor.Ref) bool { return r == ref })
	if len(t.byKey[key]) == 0 {
		delete(t.byKey, key)
	}
}

// keys returns the names of all of them.
func (t *traces) keys() []stewards.Key {
	t.mu.Lock()
	defer t.mu.Unlock()
	keys := make([]stewards.Key, 0, len(t.byKey))
	for key := range t.byKey {
		keys = append(keys, key)
	}
	return keys
}
