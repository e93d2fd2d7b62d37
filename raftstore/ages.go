package raftstore

import (
	"sort"
	"sync"
	"time"
)

// retention says how much of a growing sequence stays: everything that is younger than
// age, and the newest floor bytes whatever their age; but at most ceiling bytes and most
// items.
type retention struct {
	age            time.Duration
	floor, ceiling uint64
	most           uint64
}

// maxMarks bounds the memory of ages. Half as many are always left.
const maxMarks = 512

// ages remembers roughly when a sequence reached which position, and how many bytes it
// had then, so that retention can be applied without asking each item. It is safe for
// concurrent use.
type ages struct {
	keep retention

	mu    sync.Mutex
	marks []mark // ascending, never empty; nothing before the first one is known
	end   mark   // the newest position
}

// mark is a moment in the growth of a sequence.
type mark struct {
	at       time.Time
	position uint64 // of the newest item
	bytes    uint64 // of all items up to it
}

// newAges returns the ages of a sequence that is empty.
func newAges(keep retention) *ages { return &ages{keep: keep, marks: []mark{{at: time.Now()}}} }

// reset begins anew after the item at position.
func (a *ages) reset(now time.Time, position uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.end = mark{now, position, a.end.bytes}
	a.marks = append(a.marks[:0], a.end)
}

// add notes that the sequence has grown by so many bytes up to position. A position that
// was there before takes the place of those from it on.
func (a *ages) add(now time.Time, position, bytes uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.marks) > 1 && a.marks[len(a.marks)-1].position >= position {
		a.marks = a.marks[:len(a.marks)-1]
	}
	a.end = mark{now, position, a.end.bytes + bytes}
	step := min(a.keep.floor, a.keep.ceiling) / 64
	if last := a.marks[len(a.marks)-1]; a.end.bytes-last.bytes < step && now.Sub(last.at) < a.keep.age/64 {
		return
	}
	a.marks = append(a.marks, a.end)
	if len(a.marks) > maxMarks {
		a.thin()
	}
}

// thin drops every second mark. The caller holds a.mu.
func (a *ages) thin() {
	kept := a.marks[:1]
	for i := 2; i < len(a.marks); i += 2 {
		kept = append(kept, a.marks[i])
	}
	a.marks = kept
}

// dropTo returns the position up to which nothing needs to stay.
func (a *ages) dropTo(now time.Time) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := len(a.marks)
	// The marks before old are older than age, those before deep are below the floor,
	// and those from fits on are within the ceiling.
	old := sort.Search(n, func(i int) bool { return now.Sub(a.marks[i].at) < a.keep.age })
	deep := sort.Search(n, func(i int) bool { return a.end.bytes-a.marks[i].bytes < a.keep.floor })
	fits := sort.Search(n, func(i int) bool { return a.end.bytes-a.marks[i].bytes <= a.keep.ceiling })
	var drop uint64
	if i := min(old, deep); i > 0 {
		drop = a.marks[i-1].position
		a.marks = append(a.marks[:0], a.marks[i-1:]...)
		fits = max(0, fits-(i-1))
	}
	if fits < len(a.marks) {
		drop = max(drop, a.marks[fits].position)
	} else {
		drop = a.end.position
	}
	if a.end.position > a.keep.most {
		drop = max(drop, a.end.position-a.keep.most)
	}
	return drop
}
