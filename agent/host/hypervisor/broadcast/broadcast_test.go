package broadcast

import (
	"context"
	"testing"
	"testing/synctest"

	"virtmesh/agent/host/hypervisor"
)

func numbered(i int) hypervisor.Event {
	return hypervisor.Event{Kind: hypervisor.EventState, Ref: hypervisor.Ref{Name: string(rune('a' + i%26))}}
}

func TestEventsArriveInOrder(t *testing.T) {
	h := New()
	defer h.Close()
	a, b := h.Subscribe(t.Context()), h.Subscribe(t.Context())
	for i := range 26 {
		h.Publish(numbered(i))
	}
	for i := range 26 {
		if got := <-a; got != numbered(i) {
			t.Errorf("first subscriber: event %d is %v", i, got)
		}
		if got := <-b; got != numbered(i) {
			t.Errorf("second subscriber: event %d is %v", i, got)
		}
	}
}

func TestSlowSubscriberIsToldToResync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New()
		defer h.Close()
		slow := h.Subscribe(t.Context())
		h.Publish(numbered(0))
		synctest.Wait() // until the first event waits for its reader, and the rest queues up behind it
		for i := range 3 * Backlog {
			h.Publish(numbered(i + 1))
		}
		got, resyncs := 0, 0
		for resyncs == 0 {
			if e := <-slow; e.Kind == hypervisor.EventResync {
				resyncs++
			} else if e != numbered(got) {
				t.Fatalf("event %d is %v", got, e)
			} else {
				got++
			}
		}
		if got != 1+Backlog {
			t.Errorf("%d events arrived before the resync, want %d", got, 1+Backlog)
		}
		h.Publish(numbered(7))
		if e := <-slow; e != numbered(7) {
			t.Errorf("after the resync: %v", e)
		}
	})
}

func TestChannelsCloseWithContextAndHub(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New()
		ctx, cancel := context.WithCancel(t.Context())
		byContext, byHub := h.Subscribe(ctx), h.Subscribe(t.Context())
		h.Publish(numbered(0))
		cancel()
		synctest.Wait()
		for range byContext {
		}
		h.Close()
		for range byHub {
		}
		if _, open := <-h.Subscribe(t.Context()); open {
			t.Error("a closed hub gave an event")
		}
		h.Close()
	})
}
