package stewardstest

import (
	"slices"
	"sync"

	"virtmesh/agent/stewards"
)

// Members is a membership that a test sets. It may be used from any goroutine.
type Members struct {
	mu    sync.Mutex
	names []string
	subs  []func()
}

var _ stewards.Members = (*Members)(nil)

// Members implements stewards.Members.
func (m *Members) Members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names)
}

// Subscribe implements stewards.Members.
func (m *Members) Subscribe(fn func()) (cancel func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = append(m.subs, fn)
	return func() {}
}

// Set makes these the live members.
func (m *Members) Set(names ...string) {
	m.mu.Lock()
	m.names = slices.Clone(names)
	subs := slices.Clone(m.subs)
	m.mu.Unlock()
	for _, fn := range subs {
		fn()
	}
}

func (m *Members) add(name string) {
	if names := m.Members(); !slices.Contains(names, name) {
		m.Set(append(names, name)...)
	}
}

func (m *Members) remove(name string) {
	m.Set(slices.DeleteFunc(m.Members(), func(n string) bool { return n == name })...)
}
