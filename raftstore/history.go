package raftstore

import (
	"math"
	"sort"
	"strings"
	"sync"
	"time"
)

// eventOverhead is roughly how many bytes an event costs besides its key and the value
// that it replaced.
const eventOverhead = 160

// minRing is the least number of events that the ring has room for.
const minRing = 64

// state is what readers see: an immutable tree and its revision.
type state struct {
	tree     *tree
	bytes    int64
	revision uint64
	seq      uint64
}

// history publishes the state of the machine and keeps the latest changes in a
// window that is bounded in events, bytes and time. Each watcher reads the window at its own pace; a watcher whose
// next change has left the window is too slow. A list at an earlier revision takes
// the current state and undoes the changes made since.
//
// Only the applying goroutine calls publish and reset; all others only read.
type history struct {
	maxEvents, maxBytes, floor int
	slow                       func() // called when a watcher was too slow; may be nil
	ages                       *ages  // of positions

	mu        sync.Mutex
	now       state
	ring      []change // positions start..end-1, at index position % len
	start     uint64
	end       uint64
	bytes     int
	compacted uint64 // changes up to this revision are no longer all in the window
	watchers  map[*Watcher]struct{}
	closed    error // why no new watcher may start; nil while it may
}

func newHistory(l Limits) *history {
	h := &history{
		maxEvents: l.HistoryEvents,
		maxBytes:  l.HistoryBytes,
		floor:     l.HistoryFloor,
		ages:      newAges(retention{age: l.HistoryTime, floor: uint64(l.HistoryFloor), ceiling: math.MaxUint64, most: math.MaxUint64}),
		watchers:  make(map[*Watcher]struct{}),
	}
	h.now = state{tree: newTree(), revision: firstRevision}
	h.compacted = firstRevision
	return h
}

// changeBytes is what keeping a change costs: the value that it replaced. The new value
// is part of the state, or was replaced by a later change, to which it is charged.
func changeBytes(c *change) int {
	n := eventOverhead + len(c.record.key)
	if c.prev != nil {
		n += len(c.prev.value.bytes)
	}
	return n
}

// event returns the change as a watcher gets it.
func (c *change) event(compact bool) Event {
	e := Event{Type: c.typ, Revision: c.record.modRevision}
	if !compact {
		e.Record, e.Prev = c.record.record(), recordOf(c.prev)
		return e
	}
	e.Record = c.record.compact()
	if c.prev != nil {
		prev := c.prev.compact()
		e.Prev = &prev
	}
	return e
}

// at returns the change at a position within the window.
func (h *history) at(pos uint64) *change { return &h.ring[pos%uint64(len(h.ring))] }

// current returns the published state.
func (h *history) current() state {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// publish makes the machine's state and its changes visible together, and wakes
// the watchers whose prefix matches.
func (h *history) publish(m *machine, changes []change) {
	next := state{tree: m.tree.Copy(), bytes: m.bytes, revision: m.revision, seq: m.requests.seq}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = next
	grown := 0
	for i := range changes {
		h.pushChange(changes[i])
		grown += changeBytes(&changes[i])
	}
	if grown > 0 {
		h.ages.add(time.Now(), h.end, uint64(grown))
	}
	for w := range h.watchers {
		h.notifyWatcher(w, changes)
	}
}

// pushChange appends a change and drops the oldest changes that exceed the bounds.
// The new change always stays.
func (h *history) pushChange(c change) {
	if int(h.end-h.start) == len(h.ring) && len(h.ring) < h.maxEvents {
		h.grow()
	}
	for h.end > h.start && (int(h.end-h.start) >= h.maxEvents || h.bytes+changeBytes(&c) > h.maxBytes) {
		h.dropOldest()
	}
	*h.at(h.end) = c
	h.bytes += changeBytes(&c)
	h.end++
}

func (h *history) dropOldest() {
	old := h.at(h.start)
	h.bytes -= changeBytes(old)
	h.compacted = old.txnEnd // the window holds a txn as a whole or not at all
	*old = change{}
	h.start++
}

// dropOld drops the changes that are older than the limits let stay, so that the memory
// of a busy hour is not kept for a quiet day.
func (h *history) dropOld(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for to := h.ages.dropTo(now); h.start < min(to, h.end) && h.bytes > h.floor; {
		h.dropOldest()
	}
	if size := len(h.ring) / 2; size >= minRing && int(h.end-h.start) < size/2 {
		h.resize(size)
	}
}

// grow doubles the ring, so that a small store does not allocate a large window.
func (h *history) grow() { h.resize(min(max(minRing, 2*len(h.ring)), h.maxEvents)) }

// resize moves the changes to a ring with room for size.
func (h *history) resize(size int) {
	ring := make([]change, size)
	for pos := h.start; pos < h.end; pos++ {
		ring[pos%uint64(len(ring))] = *h.at(pos)
	}
	h.ring = ring
}

// notifyWatcher wakes w if one of the changes is below its prefix. Otherwise it
// advances an idle watcher past the changes, so that only changes below its own
// prefix can make a watcher too slow.
func (h *history) notifyWatcher(w *Watcher, changes []change) {
	if !w.idle {
		return
	}
	for i := range changes {
		if strings.HasPrefix(changes[i].record.key, w.prefix) {
			w.idle = false
			w.signal()
			return
		}
	}
	w.cursor = h.end
}

// reset replaces the state and clears the window after a snapshot was installed.
// It ends all watchers, because they may have missed changes.
func (h *history) reset(m *machine) {
	next := state{tree: m.tree.Copy(), bytes: m.bytes, revision: m.revision, seq: m.requests.seq}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = next
	h.ring, h.start, h.end, h.bytes = nil, 0, 0, 0
	h.ages.reset(time.Now(), 0)
	h.compacted = m.revision
	for w := range h.watchers {
		w.endLocked(ErrCompacted)
	}
}

// close ends all watchers with err. No watcher can start afterwards.
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

// position returns the window position of the first change after revision.
func (h *history) position(revision uint64) uint64 {
	n := int(h.end - h.start)
	i := sort.Search(n, func(i int) bool {
		return h.at(h.start+uint64(i)).record.modRevision > revision
	})
	return h.start + uint64(i)
}

// past is the state at an earlier revision: the current state and, for the keys
// changed since, the earlier records.
type past struct {
	state
	changed map[string]*stored // a nil record: the key did not exist
}

// asOf returns the state below prefix at a revision. If the revision is in the
// middle of a txn, it returns the state at the end of that txn.
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
	p.changed = make(map[string]*stored)
	for ; pos < h.end; pos++ {
		c := h.at(pos)
		if !strings.HasPrefix(c.record.key, prefix) {
			continue
		}
		if _, seen := p.changed[c.record.key]; !seen {
			p.changed[c.record.key] = c.prev
		}
	}
	return p, nil
}

// count returns how many records below prefix have a key of at least from.
func (p *past) count(prefix, from string) int {
	n := countPrefix(p.tree, prefix, from)
	for key, r := range p.changed {
		if key < from {
			continue
		}
		if r != nil {
			n++
		}
		if _, ok := p.tree.Get(&stored{key: key}); ok {
			n--
		}
	}
	return n
}

// ascend calls fn for the records below prefix whose key is at least from, in key order,
// until fn returns false.
func (p *past) ascend(prefix, from string, fn func(*stored) bool) {
	if len(p.changed) == 0 {
		ascendPrefix(p.tree, prefix, from, fn)
		return
	}
	old := make([]*stored, 0, len(p.changed))
	for _, r := range p.changed {
		if r != nil && r.key >= from {
			old = append(old, r)
		}
	}
	sort.Slice(old, func(i, j int) bool { return old[i].key < old[j].key })
	more := true
	ascendPrefix(p.tree, prefix, from, func(r *stored) bool {
		for len(old) > 0 && old[0].key < r.key && more {
			more = fn(old[0])
			old = old[1:]
		}
		if _, ok := p.changed[r.key]; more && !ok {
			more = fn(r)
		}
		return more
	})
	for ; more && len(old) > 0; old = old[1:] {
		more = fn(old[0])
	}
}

// historyStats are the figures that metrics and status report.
type historyStats struct {
	watchers, events, bytes int
	compacted               uint64
}

func (h *history) stats() historyStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return historyStats{len(h.watchers), int(h.end - h.start), h.bytes, h.compacted}
}
