package objects

import (
	"context"
	"fmt"
	"sync"

	"virtmesh/raftstore"
)

// openingWatcher opens the records of another watcher's events.
type openingWatcher struct {
	Watcher
	events  chan raftstore.Event
	stopped <-chan struct{}
	stop    context.CancelFunc

	mu  sync.Mutex
	err error // that ended the watch
}

// openEvents passes the events of the other watcher on, opened. What has arrived meanwhile is opened
// together: who does not hold the key asks another host for it.
func (o *openingWatcher) openEvents(ctx context.Context, r *Replica) {
	defer close(o.events)
	for ev := range o.Watcher.Events() {
		arrived := append([]raftstore.Event{ev}, o.waiting(openedTogether-1)...)
		if err := r.openRecords(ctx, arrived); err != nil {
			o.mu.Lock()
			o.err = fmt.Errorf("open %s: %w", ev.Record.Key, err)
			o.mu.Unlock()
			o.Watcher.Stop()
			return
		}
		for _, ev := range arrived {
			select {
			case o.events <- ev:
			case <-o.stopped:
				return
			}
		}
	}
}

// waiting takes at most n events that have arrived.
func (o *openingWatcher) waiting(n int) (arrived []raftstore.Event) {
	for range n {
		select {
		case ev, open := <-o.Watcher.Events():
			if !open {
				return arrived
			}
			arrived = append(arrived, ev)
		default:
			return arrived
		}
	}
	return arrived
}

// openRecords opens the records of events, in place.
func (r *Replica) openRecords(ctx context.Context, events []raftstore.Event) error {
	var records []raftstore.Record
	for _, ev := range events {
		if ev.Type == raftstore.Put {
			records = append(records, ev.Record)
		}
		if ev.Prev != nil {
			records = append(records, *ev.Prev)
		}
	}
	opened, err := r.openAll(ctx, records)
	if err != nil {
		return err
	}
	for i := range events {
		ev := &events[i]
		if ev.Type == raftstore.Put {
			ev.Record, opened = opened[0], opened[1:]
		}
		if ev.Prev != nil {
			ev.Prev, opened = &opened[0], opened[1:]
		}
	}
	return nil
}

// Events implements Watcher.
func (o *openingWatcher) Events() <-chan raftstore.Event { return o.events }

// Err implements Watcher.
func (o *openingWatcher) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return o.err
	}
	return o.Watcher.Err()
}

// Stop implements Watcher.
func (o *openingWatcher) Stop() {
	o.stop()
	o.Watcher.Stop()
}
