package objectstest

import (
	"context"
	"strings"
	"sync"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// watcher delivers the store's history after one revision.
type watcher struct {
	store  *Store
	prefix string
	after  uint64 // events up to here were delivered
	events chan raftstore.Event
	wake   chan struct{} // holds one token
	done   chan struct{}

	once sync.Once
	stop chan struct{}
	err  error // set before stop is closed
}

var _ objects.Watcher = (*watcher)(nil)

// Events implements objects.Watcher.
func (w *watcher) Events() <-chan raftstore.Event { return w.events }

// Err implements objects.Watcher.
func (w *watcher) Err() error {
	select {
	case <-w.stop:
		return w.err
	default:
		return nil
	}
}

// Stop implements objects.Watcher.
func (w *watcher) Stop() {
	w.end(nil)
	<-w.done
}

func (w *watcher) end(err error) {
	w.once.Do(func() {
		w.err = err
		close(w.stop)
	})
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) run(ctx context.Context) {
	defer close(w.done)
	defer close(w.events)
	defer func() {
		w.store.mu.Lock()
		defer w.store.mu.Unlock()
		delete(w.store.watchers, w)
	}()
	for {
		for _, ev := range w.pendingEvents() {
			select {
			case w.events <- ev:
			case <-w.stop:
				return
			case <-ctx.Done():
				w.end(ctx.Err())
				return
			}
		}
		select {
		case <-w.wake:
		case <-w.stop:
			return
		case <-ctx.Done():
			w.end(ctx.Err())
			return
		}
	}
}

// pendingEvents returns the events that were not delivered yet.
func (w *watcher) pendingEvents() []raftstore.Event {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	var out []raftstore.Event
	for i := len(w.store.history) - 1; i >= 0 && w.store.history[i].Revision > w.after; i-- {
		if ev := w.store.history[i]; strings.HasPrefix(ev.Record.Key, w.prefix) {
			out = append(out, ev)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	w.after = w.store.revision
	return out
}
