package raftstore

import "time"

// Writers that wait for each other's entry would take turns for ever: while one half waits
// for its outcome, the other half's entry is written, and each commit takes the time of two
// entries. So an entry waits for those who wrote the last one, and often have something to
// write again at once, too. A lone writer is not held up.

const (
	// reunionPart is which part of the time that the last entry took the next one waits for
	// its writers.
	reunionPart = 4
	// reunionMost is how long it waits at most, however long that was: an entry on a disk that
	// hung for minutes says nothing about the next one. Only disks on which an entry takes
	// longer than 200 ms get less than their part.
	reunionMost = 50 * time.Millisecond
	// reunionRest is how many entries do not wait after one that waited in vain.
	reunionRest = 64
)

// reunion decides for how long an entry waits for proposals. It is used by one goroutine.
type reunion struct {
	writers int           // of the last entry
	want    int           // proposals in the next entry if all of them come back; 0 if it waits for nobody
	limit   time.Duration // for which it waits at most
	timer   *time.Timer   // runs while it waits
	rest    int           // entries that do not wait
}

// plan is called when an entry of some writers is committed that took a time, while others
// waited for the next one.
func (r *reunion) plan(writers, waiting int, took time.Duration) {
	r.writers, r.want, r.limit = writers, 0, min(took/reunionPart, reunionMost)
	switch {
	case r.rest > 0:
		r.rest--
	case writers+waiting > 1:
		r.want = writers + waiting
	}
}

// late returns a channel that ends the wait for more proposals, nil if an entry that has some
// waits for no more.
func (r *reunion) late(have int) <-chan time.Time {
	if have >= r.want {
		return nil
	}
	if r.timer == nil {
		r.timer = time.NewTimer(r.limit)
	}
	return r.timer.C
}

// end is called when the entry is complete.
func (r *reunion) end(have int) {
	if r.timer == nil {
		return
	}
	r.timer.Stop()
	r.timer = nil
	if r.want-have > r.writers/2 {
		r.rest = reunionRest // most of them do not come back
	}
}
