package raftstore

import (
	"context"
	"errors"
	"strings"
	"time"
)

const (
	// watchBuffer is how many events a watcher's channel holds. There may be thousands of
	// watchers, and most of them wait.
	watchBuffer = 8
	// watchBatch is how many events a watcher takes from the history at once.
	watchBatch = 64
	// watchScan is how many positions a watcher reads at most while it holds the
	// lock of the history.
	watchScan = 512
)

// Watcher delivers the changes below a prefix in the order of revisions. It reads
// the shared history at its own pace, so a reader that stalls loses only its own
// watch.
type Watcher struct {
	h         *history
	prefix    string
	bookmarks time.Duration
	compact   bool
	events    chan Event
	wake      chan struct{} // holds one token
	stopped   chan struct{} // closed when the watch ends, after err is set
	done      chan struct{} // closed when the goroutine has returned

	// Guarded by h.mu.
	cursor uint64 // window position of the next change to read
	after  uint64 // changes up to this revision are not delivered
	idle   bool   // the watcher has read up to the end of the window
	ended  bool
	err    error
}

// Watch starts a watch of the local replica. It delivers the changes below
// req.Prefix after req.Revision until ctx ends, Stop is called or the watcher
// fails. Watch returns ErrCompacted if the kept history does not reach back to
// req.Revision.
func (s *Store) Watch(ctx context.Context, req WatchRequest) (*Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, err := s.history.addWatcher(req)
	if err != nil {
		return nil, err
	}
	if !s.tasks.start(func() { w.deliverLoop(ctx) }) {
		w.end(ErrClosed)
		close(w.events)
		close(w.done)
		return nil, ErrClosed
	}
	return w, nil
}

// addWatcher registers a watcher.
func (h *history) addWatcher(req WatchRequest) (*Watcher, error) {
	w := &Watcher{
		h: h, prefix: req.Prefix, bookmarks: req.Bookmarks, compact: req.Compact,
		events:  make(chan Event, watchBuffer),
		wake:    make(chan struct{}, 1),
		stopped: make(chan struct{}),
		done:    make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.closed != nil:
		return nil, h.closed
	case req.Revision == 0:
		w.cursor = h.end
	case req.Revision < h.compacted:
		return nil, ErrCompacted
	default:
		w.cursor = h.position(req.Revision)
	}
	// The replica may not have reached the revision yet. The caller already knows
	// the changes that arrive up to it.
	w.after = req.Revision
	h.watchers[w] = struct{}{}
	return w, nil
}

// Events returns the channel of changes. It is closed when the watch has ended.
func (w *Watcher) Events() <-chan Event { return w.events }

// Err says why the watch ended: ErrSlowWatcher, ErrCompacted, ErrClosed,
// ErrHalted or the context's error. It is nil while the watch runs and after Stop.
func (w *Watcher) Err() error {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	return w.err
}

// Stop ends the watch. When it returns, nothing more is sent to Events.
func (w *Watcher) Stop() {
	w.end(nil)
	<-w.done
}

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *Watcher) end(err error) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	w.endLocked(err)
}

func (w *Watcher) endLocked(err error) {
	if w.ended {
		return
	}
	w.ended, w.err = true, err
	if errors.Is(err, ErrSlowWatcher) && w.h.slow != nil {
		w.h.slow()
	}
	delete(w.h.watchers, w)
	close(w.stopped)
}

// deliverLoop sends changes from the history to the channel until the watch ends.
func (w *Watcher) deliverLoop(ctx context.Context) {
	defer close(w.done)
	defer close(w.events)
	stop := context.AfterFunc(ctx, func() { w.end(context.Cause(ctx)) })
	defer stop()
	var tick <-chan time.Time
	if w.bookmarks > 0 {
		t := time.NewTicker(w.bookmarks)
		defer t.Stop()
		tick = t.C
	}
	var buf []Event
	bookmark := false // a bookmark is due
	for {
		var revision uint64
		buf, revision = w.next(buf[:0])
		for i := range buf {
			if !w.send(buf[i]) {
				return
			}
		}
		if len(buf) > 0 || revision == 0 {
			select {
			case <-w.stopped:
				return
			default:
				continue
			}
		}
		if bookmark {
			bookmark = false
			if !w.send(Event{Type: Bookmark, Revision: revision}) {
				return
			}
			continue
		}
		buf = nil // it keeps the last events, and may wait for long
		select {
		case <-w.wake:
		case <-tick:
			bookmark = true
		case <-w.stopped:
			return
		}
	}
}

func (w *Watcher) send(e Event) bool {
	select {
	case w.events <- e:
		return true
	case <-w.stopped:
		return false
	}
}

// next returns the following changes below the watcher's prefix. A revision of
// zero means that there may be more. If nothing is left, next marks the watcher
// idle and returns the revision up to which the watcher has seen every change.
func (w *Watcher) next(buf []Event) (events []Event, revision uint64) {
	h := w.h
	h.mu.Lock()
	defer h.mu.Unlock()
	if w.ended {
		return nil, 0
	}
	if w.cursor < h.start {
		w.endLocked(ErrSlowWatcher)
		return nil, 0
	}
	for n := 0; n < watchScan && w.cursor < h.end && len(buf) < watchBatch; n++ {
		c := h.at(w.cursor)
		w.cursor++
		if c.record.modRevision > w.after && strings.HasPrefix(c.record.key, w.prefix) {
			buf = append(buf, c.event(w.compact))
		}
	}
	if len(buf) > 0 || w.cursor < h.end {
		return buf, 0
	}
	w.idle = true
	return nil, max(h.now.revision, w.after)
}
