package stewards

import (
	"hash/fnv"
	"slices"
	"sync"
	"sync/atomic"
)

// Members is the view of the live membership that stewardship follows.
type Members interface {
	// Members returns the names of the live members, in any order. It must
	// not block and may be called from any goroutine.
	Members() []string
	// Subscribe calls fn after the membership may have changed, until cancel
	// is called. fn does not block; calls may be merged.
	Subscribe(fn func()) (cancel func())
}

// Stewardship tells which host handles which object.
//
// An empty list of members means "only this host", because a mesh of one host
// must work before gossip has started.
type Stewardship struct {
	self    string
	members Members
	table   atomic.Pointer[rendezvous]

	mu        sync.Mutex
	listeners map[int]func(old, new *rendezvous)
	nextID    int
	cancel    func()
}

// NewStewardship follows members on behalf of the host named self. Close ends
// the subscription.
func NewStewardship(self string, members Members) *Stewardship {
	s := &Stewardship{self: self, members: members, listeners: map[int]func(old, new *rendezvous){}}
	s.table.Store(newRendezvous(self, members.Members()))
	s.cancel = members.Subscribe(s.refresh)
	// Read again after subscribing, so that a change in between is not lost.
	s.refresh()
	return s
}

// Close stops following the membership.
func (s *Stewardship) Close() { s.cancel() }

// Steward returns the host that handles key within scope. Scope is usually the
// resource name; controllers of one kind that share a scope share the steward.
func (s *Stewardship) Steward(scope string, key Key) string {
	return s.table.Load().winner(hashKey(scope, key))
}

// Mine reports whether this host is the steward of key.
func (s *Stewardship) Mine(scope string, key Key) bool {
	return s.Steward(scope, key) == s.self
}

// refresh reads the membership again and tells the listeners if it changed.
func (s *Stewardship) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.table.Load()
	next := newRendezvous(s.self, s.members.Members())
	if slices.Equal(old.names, next.names) {
		return
	}
	s.table.Store(next)
	for _, fn := range s.listeners {
		fn(old, next)
	}
}

// onChange registers fn for changes of the membership. fn must not block.
func (s *Stewardship) onChange(fn func(old, new *rendezvous)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextID
	s.nextID++
	s.listeners[id] = fn
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, id)
	}
}

// rendezvous is an immutable set of members and their hash seeds.
type rendezvous struct {
	names []string
	seeds []uint64
}

func newRendezvous(self string, names []string) *rendezvous {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		names = []string{self}
	}
	r := &rendezvous{names: names, seeds: make([]uint64, len(names))}
	for i, n := range names {
		r.seeds[i] = hashStrings(n)
	}
	return r
}

// winner returns the member with the highest weight for the hashed key. Equal
// weights go to the first name, so that every host agrees.
func (r *rendezvous) winner(h uint64) string {
	best, bestWeight := 0, uint64(0)
	for i, seed := range r.seeds {
		if w := mix(seed ^ h); w > bestWeight || i == 0 {
			best, bestWeight = i, w
		}
	}
	return r.names[best]
}

func hashKey(scope string, key Key) uint64 {
	return hashStrings(scope, key.Namespace, key.Name)
}

// hashStrings is FNV-1a with a separator. It must give the same value on every
// host and in every release, so it is not maphash.
func hashStrings(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = h.Write([]byte(p))
		_, _ = h.Write([]byte{0})
	}
	return mix(h.Sum64())
}

// mix spreads the bits of x (the finalizer of splitmix64): FNV alone leaves
// the weights of similar names correlated.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	x ^= x >> 31
	return x
}
