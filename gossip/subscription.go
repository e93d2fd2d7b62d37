package gossip

import "sync"

// maxPendingEvents is how many members may have an undelivered event before a
// subscriber gets EventResync instead.
const maxPendingEvents = 8192

// Subscription delivers events to one reader. A slow reader delays nobody: undelivered
// events of the same member are merged into one. If too many members have undelivered
// events, the reader gets EventResync in place of all of them.
type Subscription struct {
	events chan Event
	wake   chan struct{}
	done   chan struct{}
	once   sync.Once

	mu      sync.Mutex
	order   []string
	pending map[string]Event
	resync  bool
	limit   int
}

func newSubscription(limit int) *Subscription {
	s := &Subscription{
		events:  make(chan Event),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
		pending: make(map[string]Event),
		resync:  true,
		limit:   limit,
	}
	s.wake <- struct{}{}
	return s
}

// Events returns the channel of events. The first event is EventResync. The channel is
// closed after Close and when the Gossip shuts down.
func (s *Subscription) Events() <-chan Event { return s.events }

// Close ends the subscription. It may be called more than once.
func (s *Subscription) Close() { s.once.Do(func() { close(s.done) }) }

// pushEvent queues an event. It never blocks.
func (s *Subscription) pushEvent(ev Event) {
	s.mu.Lock()
	s.addEvent(ev)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Subscription) addEvent(ev Event) {
	if s.resync {
		return // the reader is about to read all members again
	}
	name := ev.Member.Name
	if old, ok := s.pending[name]; ok {
		ev.Merged = old.Merged + 1
		if ev.Type == EventFacts {
			ev.Type = old.Type // keep the change of state; EventFacts would hide it
		}
		s.pending[name] = ev
		return
	}
	if len(s.order) >= s.limit {
		s.order, s.resync = nil, true
		clear(s.pending)
		return
	}
	s.order = append(s.order, name)
	s.pending[name] = ev
}

func (s *Subscription) next() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.resync {
		s.resync = false
		return Event{Type: EventResync}, true
	}
	if len(s.order) == 0 {
		return Event{}, false
	}
	name := s.order[0]
	s.order = s.order[1:]
	ev := s.pending[name]
	delete(s.pending, name)
	return ev, true
}

// deliverLoop delivers events until Close.
func (s *Subscription) deliverLoop() {
	defer close(s.events)
	for {
		ev, ok := s.next()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-s.done:
				return
			}
		}
		select {
		case s.events <- ev:
		case <-s.done:
			return
		}
	}
}
