package raftstore

import (
	"sort"
	"strings"
	"sync"
)

// eventOverhead is about what an event costs besides its record.
const eventOverhead = 160

// state is what readers see: an immutable tree and the revision it shows.
type state struct {
	tree     *tree
	bytes    int64
	revision uint64
	seq      uint64
}

// history publishes the state of the machine and keeps the last changes in a
// bounded window. Watchers read the window each at their own pace; one that the
// window has left behind is too slow. Lists at a revision undo what came since.
//
// The applying goroutine calls publish and reset; everyone else only reads.
type history struct {
	maxEvents, maxBytes int
	slow                func() // a watcher was too slow, nil if nobody counts

	mu        sync.Mutex
	now       state
	ring      []change // positions start..end-1, at index position % len
	start     uint64
	end       uint64
	bytes     int
	compacted uint64 // changes up to here are no longer all in the window
	watchers  map[*Watcher]struct{}
	closed    error // why no new watcher may start
}

func newHistory(l Limits) *history {
	h := &history{
		maxEvents: l.HistoryEvents,
		maxBytes:  l.HistoryBytes,
		watchers:  make(map[*Watcher]struct{}),
	}
	h.now = state{tree: newTree(), revision: firstRevision}
	h.compacted = firstRevision
	return h
}

func changeBytes(c *change) int {
	n := eventOverhead + len(c.record.Key) + len(c.record.Value)
	if c.prev != nil {
		n += len(c.prev.Value)
	}
	return n
}

// at returns the change at a position within the window.
func (h *history) at(pos uint64) *change { return &h.ring[pos%uint64(len(h.ring))] }

// current returns the published state.
func (h *history) current() state {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// publish makes the machine's state and changes visible at once, and wakes the
// watchers concerned.
func (h *history) publish(m *machine, changes []change) {
	next := state{tree: m.tree.Clone(), bytes: m.bytes, revision: m.revision, seq: m.requests.seq}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = next
	for i := range changes {
		h.push(changes[i])
	}
	for w := range h.watchers {
		h.notify(w, changes)
	}
}

// push appends a change and drops the oldest ones over the bounds. The change
// just made always stays.
func (h *history) push(c change) {
	if int(h.end-h.start) == len(h.ring) && len(h.ring) < h.maxEvents {
		h.grow()
	}
	for h.end > h.start && (int(h.end-h.start) >= h.maxEvents || h.bytes+changeBytes(&c) > h.maxBytes) {
		old := h.at(h.start)
		h.bytes -= changeBytes(old)
		h.compacted = old.txnEnd // a txn is there as a whole or not at all
		*old = change{}
		h.start++
	}
	*h.at(h.end) = c
	h.bytes += changeBytes(&c)
	h.end++
}

// grow doubles the ring, so that a small store does not pay for a large window.
func (h *history) grow() {
	ring := make([]change, min(max(64, 2*len(h.ring)), h.maxEvents))
	for pos := h.start; pos < h.end; pos++ {
		ring[pos%uint64(len(ring))] = *h.at(pos)
	}
	h.ring = ring
}

// notify wakes w if a change concerns it. An idle watcher that is not concerned
// is moved on, so that only changes of its own can make it slow.
func (h *history) notify(w *Watcher, changes []change) {
	if !w.idle {
		return
	}
	for i := range changes {
		if strings.HasPrefix(changes[i].record.Key, w.prefix) {
			w.idle = false
			w.signal()
			return
		}
	}
	w.cursor = h.end
}

// reset replaces everything after a snapshot was installed: watchers end, for
// they may have missed changes.
func (h *history) reset(m *machine) {
	next := state{tree: m.tree.Clone(), bytes: m.bytes, revision: m.revision, seq: m.requests.seq}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = next
	h.ring, h.start, h.end, h.bytes = nil, 0, 0, 0
	h.compacted = m.revision
	for w := range h.watchers {
		w.endLocked(ErrCompacted)
	}
}

// close ends all watchers with err and lets no new one start.
func (h *history) close(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed == nil {
		h.closed = err
	}
	for w := range h.watchers {
		w.endLocked(err)
	}
}

// position returns where the changes after revision begin.
func (h *history) position(revision uint64) uint64 {
	n := int(h.end - h.start)
	i := sort.Search(n, func(i int) bool {
		return h.at(h.start+uint64(i)).record.ModRevision > revision
	})
	return h.start + uint64(i)
}

// past is the state at an earlier revision: the present one and, for the keys
// changed since, the records they had.
type past struct {
	state
	changed map[string]*Record // nil: did not exist
}

// asOf returns the state below prefix at a revision, or at the end of the txn it
// is in the middle of.
func (h *history) asOf(prefix string, revision uint64) (past, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := past{state: h.now}
	switch {
	case revision > h.now.revision:
		return past{}, ErrFutureRevision
	case revision == h.now.revision:
		return p, nil
	case revision < h.compacted:
		return past{}, ErrCompacted
	}
	pos := h.position(revision)
	if pos > h.start {
		if last := h.at(pos - 1); last.txnEnd > revision {
			revision = last.txnEnd
			pos = h.position(revision)
		}
	}
	p.revision = revision
	p.changed = make(map[string]*Record)
	for ; pos < h.end; pos++ {
		c := h.at(pos)
		if !strings.HasPrefix(c.record.Key, prefix) {
			continue
		}
		if _, seen := p.changed[c.record.Key]; !seen {
			p.changed[c.record.Key] = c.prev
		}
	}
	return p, nil
}

// ascend calls fn for the records below prefix after a key, in key order.
func (p *past) ascend(prefix, after string, fn func(*Record) bool) {
	from := ""
	if after != "" {
		from = after + "\x00"
	}
	if len(p.changed) == 0 {
		ascendPrefix(p.tree, prefix, from, fn)
		return
	}
	old := make([]*Record, 0, len(p.changed))
	for _, r := range p.changed {
		if r != nil && r.Key >= from {
			old = append(old, r)
		}
	}
	sort.Slice(old, func(i, j int) bool { return old[i].Key < old[j].Key })
	more := true
	ascendPrefix(p.tree, prefix, from, func(r *Record) bool {
		for len(old) > 0 && old[0].Key < r.Key && more {
			more = fn(old[0])
			old = old[1:]
		}
		if _, ok := p.changed[r.Key]; more && !ok {
			more = fn(r)
		}
		return more
	})
	for ; more && len(old) > 0; old = old[1:] {
		more = fn(old[0])
	}
}

// historyStats are figures for metrics and status.
type historyStats struct {
	watchers, events, bytes int
	compacted               uint64
}

func (h *history) stats() historyStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return historyStats{len(h.watchers), int(h.end - h.start), h.bytes, h.compacted}
}
