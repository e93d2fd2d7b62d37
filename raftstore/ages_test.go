package raftstore

import (
	"crypto/rand"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// item is one of a sequence whose retention is checked.
type item struct {
	at    time.Time
	bytes uint64
}

// TestRetention compares ages with a model that remembers every item: nothing goes that
// should stay, and what should go goes, within the precision of the marks.
func TestRetention(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		keep := retention{
			age:     time.Duration(rapid.IntRange(1, 100).Draw(t, "age")) * time.Second,
			floor:   rapid.Uint64Range(0, 500).Draw(t, "floor"),
			ceiling: rapid.Uint64Range(1, 2000).Draw(t, "ceiling"),
			most:    rapid.Uint64Range(1, 200).Draw(t, "most"),
		}
		a := newAges(keep)
		now := time.Now()
		a.reset(now, 0)
		var items []item // at index position-1
		for range rapid.IntRange(1, 200).Draw(t, "items") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "pause")) * time.Millisecond)
			in := item{now, rapid.Uint64Range(1, 40).Draw(t, "bytes")}
			items = append(items, in)
			a.add(now, uint64(len(items)), in.bytes)
		}
		now = now.Add(time.Duration(rapid.IntRange(0, 200).Draw(t, "rest")) * time.Second)
		checkRetention(t, keep, items, a.dropTo(now), now)
	})
}

// checkRetention says what is wrong with dropping the first items.
func checkRetention(t *rapid.T, keep retention, items []item, drop uint64, now time.Time) {
	var behind uint64 // bytes of the items after the one at hand
	precision := keep.age/64 + 3*time.Second
	for pos := uint64(len(items)); pos > 0; pos-- {
		in := items[pos-1]
		count := uint64(len(items)) - pos + 1
		over := behind+in.bytes > keep.ceiling || count > keep.most
		switch dropped := pos <= drop; {
		case !dropped && over:
			t.Fatalf("item %d of %d stays: %d bytes, number %d from the end", pos, len(items), behind+in.bytes, count)
		case !dropped && now.Sub(in.at) > keep.age+precision && behind > keep.floor+80:
			t.Fatalf("item %d of %d stays: %s old, %d bytes behind it", pos, len(items), now.Sub(in.at), behind)
		case dropped && now.Sub(in.at) < keep.age && behind+in.bytes+80 < keep.ceiling && count < keep.most:
			t.Fatalf("item %d of %d is dropped: %s old, %d bytes from the end", pos, len(items), now.Sub(in.at), behind)
		case dropped && behind+in.bytes < keep.floor && behind+in.bytes+80 < keep.ceiling && count < keep.most:
			t.Fatalf("item %d of %d is dropped: %d bytes from the end, below the floor", pos, len(items), behind)
		}
		behind += in.bytes
	}
}

// The memory of marks is bounded, however long a sequence grows.
func TestMarksAreBounded(t *testing.T) {
	a := newAges(retention{age: time.Hour, floor: 0, ceiling: 1 << 40, most: 1 << 40})
	now := time.Now()
	for i := range 100_000 {
		now = now.Add(time.Millisecond)
		a.add(now, uint64(i+1), 1000)
	}
	if n := len(a.marks); n > maxMarks {
		t.Errorf("%d marks, want at most %d", n, maxMarks)
	}
	if drop := a.dropTo(now); drop > 1000 {
		t.Errorf("%d of 100,000 young entries are dropped", drop)
	}
}

// noise returns a value that cannot be made smaller.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// After a busy time, what is old is no longer kept in memory, apart from a floor.
func TestHistoryForgetsWhatIsOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := DefaultConfig().Limits
		h, m := newHistory(limits), testMachine(t)
		write := func(n int) {
			for i := range n {
				_, changes, err := applyTxns(m, Txn{
					RequestID: fmt.Sprint(m.revision, "-", i),
					Ops:       []Op{{Key: fmt.Sprint("/k/", i%10), Value: noise(10 << 10)}},
				})
				if err != nil {
					t.Fatal(err)
				}
				h.publish(m, changes)
			}
		}
		write(2000)
		busy := m.revision
		time.Sleep(limits.HistoryTime - time.Minute)
		h.dropOld(time.Now())
		if s := h.stats(); s.events != 2000 {
			t.Errorf("%d of 2,000 events are left within HistoryTime", s.events)
		}
		time.Sleep(2 * time.Minute)
		write(1)
		h.dropOld(time.Now())
		s := h.stats()
		if s.bytes > limits.HistoryFloor*33/32 || s.bytes < limits.HistoryFloor/2 {
			t.Errorf("%d bytes are left of a busy time, want about %d", s.bytes, limits.HistoryFloor)
		}
		if _, err := h.asOf("/", busy); err != nil {
			t.Errorf("the state after the busy time cannot be listed: %v", err)
		}
		if _, err := h.addWatcher(WatchRequest{Prefix: "/", Revision: s.compacted - 1}); err != ErrCompacted {
			t.Errorf("a watch from before what is left: %v", err)
		}
		for range 3 {
			h.dropOld(time.Now())
		}
		if len(h.ring) > 1024 {
			t.Errorf("the ring has room for %d events, and %d are left", len(h.ring), s.events)
		}
	})
}

// A history is charged for what it keeps in memory: the values that were replaced, once.
func TestHistoryCountsReplacedValuesOnce(t *testing.T) {
	h, m := newHistory(DefaultConfig().Limits), testMachine(t)
	const size = 100 << 10
	for i := range 11 {
		_, changes, err := applyTxns(m, Txn{RequestID: fmt.Sprint(i), Ops: []Op{{Key: "/k", Value: noise(size)}}})
		if err != nil {
			t.Fatal(err)
		}
		h.publish(m, changes)
	}
	if s := h.stats(); s.bytes < 10*size || s.bytes > 10*size+11*1024 {
		t.Errorf("ten replaced values of %d bytes count as %d", size, s.bytes)
	}
}
