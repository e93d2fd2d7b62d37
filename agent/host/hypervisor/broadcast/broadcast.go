// Package broadcast hands events of a hypervisor to its subscribers. Publishing never
// waits. A subscriber that has fallen behind loses the events that do not fit its
// queue, then gets one hypervisor.EventResync, and must list again. No other events are
// dropped, and their order is kept.
package broadcast

import (
	"context"
	"sync"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// Backlog is how many events may wait for one subscriber.
const Backlog = 1024

// Hub holds the subscribers. The zero value is not usable: call New.
type Hub struct {
	mu     sync.Mutex
	subs   map[*subscription]struct{}
	closed bool
	done   chan struct{}
	wg     sync.WaitGroup
}

// New returns a Hub without subscribers.
func New() *Hub {
	return &Hub{subs: map[*subscription]struct{}{}, done: make(chan struct{})}
}

// subscription is one subscriber's queue, filled under its own lock and emptied by
// its own goroutine.
type subscription struct {
	mu    sync.Mutex
	queue []hypervisor.Event
	lost  bool
	wake  chan struct{}
	out   chan hypervisor.Event
}

// Publish queues e for every subscriber and returns at once.
func (h *Hub) Publish(e hypervisor.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.add(e)
	}
}

// Subscribe returns the events published from now on. The channel is closed when ctx
// or the hub ends.
func (h *Hub) Subscribe(ctx context.Context) <-chan hypervisor.Event {
	s := &subscription{wake: make(chan struct{}, 1), out: make(chan hypervisor.Event)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(s.out)
		return s.out
	}
	h.subs[s] = struct{}{}
	h.wg.Add(1)
	go func() {
		defer h.wg.Done()
		defer close(s.out)
		defer h.remove(s)
		s.deliver(ctx, h.done)
	}()
	return s.out
}

// Close ends all subscriptions and waits for their goroutines.
func (h *Hub) Close() {
	h.mu.Lock()
	if !h.closed {
		h.closed = true
		close(h.done)
	}
	h.mu.Unlock()
	h.wg.Wait()
}

func (h *Hub) remove(s *subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.subs, s)
}

func (s *subscription) add(e hypervisor.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.lost:
		// The resync that is due covers e.
	case len(s.queue) >= Backlog:
		s.lost = true
	default:
		s.queue = append(s.queue, e)
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns the queued events. If events were lost, a resync for them comes last.
func (s *subscription) take() []hypervisor.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch := s.queue
	s.queue = nil
	if s.lost {
		s.lost = false
		batch = append(batch, hypervisor.Event{Kind: hypervisor.EventResync, Time: time.Now(), Detail: "subscriber too slow"})
	}
	return batch
}

func (s *subscription) deliver(ctx context.Context, done <-chan struct{}) {
	for {
		select {
		case <-s.wake:
		case <-ctx.Done():
			return
		case <-done:
			return
		}
		for _, e := range s.take() {
			select {
			case s.out <- e:
			case <-ctx.Done():
				return
			case <-done:
				return
			}
		}
	}
}
