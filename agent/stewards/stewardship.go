package stewards

import (
	"context"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
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

// Witness is a second source, besides Members, for which hosts live. Gossip can be
// split while the replicated store is well. Each part would then take over the objects
// of the others, and they would undo each other's work.
type Witness interface {
	// FarFewer reports whether so many live members are far fewer than the mesh has
	// records of. It must not block.
	FarFewer(live int) bool
	// Confirm reports whether all hosts of the mesh that are not among the live ones
	// are silent towards the leader of the replicated store as well.
	Confirm(ctx context.Context, live []string) (bool, error)
}

// StewardshipConfig describes a Stewardship.
type StewardshipConfig struct {
	// Self is the name of this host.
	Self string
	// Members is who lives.
	Members Members
	// Witness is asked before this host acts on a membership that has shrunk much; nil
	// if there is none.
	Witness Witness
	// Logger receives a line when the stewards hold still and when they go on; nil
	// discards them.
	Logger *slog.Logger
}

// Stewardship tells which host handles which object.
//
// An empty list of members means "only this host", because a mesh of one host
// must work before gossip has started. While far fewer members live than the mesh has
// records of, and the witness does not confirm that the others are gone, the stewards
// hold still: this host handles no object.
type Stewardship struct {
	cfg   StewardshipConfig
	table atomic.Pointer[rendezvous]

	mu        sync.Mutex
	confirmed []string // far fewer members, and the witness has confirmed it
	listeners map[int]func(old, new *rendezvous)
	nextID    int

	doubt chan struct{} // holds a token if the witness must be asked
	stop  context.CancelFunc
	loop  sync.WaitGroup
}

// confirmEvery is how often the witness is asked while far fewer members live than the
// mesh has records of.
const confirmEvery = 5 * time.Second

// NewStewardship follows the membership. Close ends that.
func NewStewardship(cfg StewardshipConfig) *Stewardship {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Stewardship{cfg: cfg, listeners: map[int]func(old, new *rendezvous){}, doubt: make(chan struct{}, 1)}
	s.table.Store(s.readTable())
	ctx, cancel := context.WithCancel(context.Background())
	unsubscribe := cfg.Members.Subscribe(s.refresh)
	s.stop = func() {
		unsubscribe()
		cancel()
	}
	if cfg.Witness != nil {
		s.loop.Go(func() { s.confirmLoop(ctx) })
	}
	// Read again after subscribing, so that a change in between is not lost.
	s.refresh()
	return s
}

// Close stops following the membership.
func (s *Stewardship) Close() {
	s.stop()
	s.loop.Wait()
}

// Steward returns the host that handles key within scope, or "" while the stewards hold
// still. Scope is usually the resource name; controllers of one kind that share a scope
// share the steward.
func (s *Stewardship) Steward(scope string, key Key) string {
	return s.table.Load().winner(hashKey(scope, key))
}

// Mine reports whether this host is the steward of key.
func (s *Stewardship) Mine(scope string, key Key) bool {
	return s.Steward(scope, key) == s.cfg.Self
}

// HoldsStill reports whether this host handles no object because it does not trust the
// membership.
func (s *Stewardship) HoldsStill() bool { return len(s.table.Load().names) == 0 }

// refresh reads the membership again and tells the listeners if it changed.
func (s *Stewardship) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.table.Load()
	next := s.readTable()
	if slices.Equal(old.names, next.names) {
		return
	}
	s.table.Store(next)
	switch {
	case len(next.names) == 0:
		s.cfg.Logger.Warn("far fewer hosts gossip than the mesh has: the stewards of this host hold still until the leader confirms that the others are gone", "live", len(s.cfg.Members.Members()))
	case len(old.names) == 0:
		s.cfg.Logger.Info("the stewards of this host go on", "live", len(next.names))
	}
	for _, fn := range s.listeners {
		fn(old, next)
	}
}

// readTable returns the table of the members that live now. It is empty if that
// membership is not trusted. The caller holds s.mu, or is the only one who knows s.
func (s *Stewardship) readTable() *rendezvous {
	next := newRendezvous(s.cfg.Self, s.cfg.Members.Members())
	if s.cfg.Witness == nil || !s.cfg.Witness.FarFewer(len(next.names)) {
		s.confirmed = nil
		return next
	}
	select {
	case s.doubt <- struct{}{}:
	default:
	}
	if slices.Equal(next.names, s.confirmed) {
		return next
	}
	return &rendezvous{}
}

// confirmLoop asks the witness while far fewer members live than the mesh has records
// of, until ctx ends.
func (s *Stewardship) confirmLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.doubt:
		}
		live := newRendezvous(s.cfg.Self, s.cfg.Members.Members()).names
		confirmed, err := s.cfg.Witness.Confirm(ctx, live)
		if err != nil {
			s.cfg.Logger.Debug("nobody can confirm which hosts are gone", "err", err)
		}
		s.mu.Lock()
		s.confirmed = nil
		if confirmed {
			s.confirmed = live
		}
		s.mu.Unlock()
		// This leaves a token in doubt for as long as there is doubt.
		s.refresh()
		select {
		case <-ctx.Done():
			return
		case <-time.After(confirmEvery):
		}
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

// rendezvous is an immutable set of members and their hash seeds. An empty set has no
// winner.
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
	if len(r.names) == 0 {
		return ""
	}
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
