package stewards

import (
	"sync"
	"time"
)

// Sightings tells for how long things have been as they are, measured by this process. The
// times in objects are no measure: they come from the clocks of other hosts, which may be
// hours off. Values tell whether a thing has changed. The zero value is ready to use.
type Sightings[V comparable] struct {
	mu   sync.Mutex
	seen map[string]sighting[V]
}

// sighting is the value of a thing, when it was first seen, and how old it may have been.
type sighting[V comparable] struct {
	value V
	since time.Time
	aged  time.Duration
}

// Age returns for how long the thing of a name has had its value. If Age was called with
// another value before, the value is as old as the first call with it. Otherwise nobody
// here has seen the change, and stamped is what the times of others say of the value's age
// at the first call.
func (s *Sightings[V]) Age(name string, value V, stamped time.Duration) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.seen[name]
	if !known || last.value != value {
		last = sighting[V]{value: value, since: time.Now()}
		if !known {
			last.aged = max(0, stamped)
		}
		if s.seen == nil {
			s.seen = map[string]sighting[V]{}
		}
		s.seen[name] = last
	}
	return last.aged + time.Since(last.since)
}

// Forget drops what is known of a thing.
func (s *Sightings[V]) Forget(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.seen, name)
}
