package raftstore_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A change of the log that needs a new file, and finds no room for it, may be carried out
// half. Once there is room it is carried out, and the open log is what the next opening
// finds: nothing that was stored since is lost.
func TestHalfAChangeOfTheLogIsMadeUp(t *testing.T) {
	failures := map[string]int{}
	for name, c := range map[string]struct {
		stored uint64 // entries before
		change func(raft.LogStore) error
		last   uint64 // the last entry after it
	}{
		"the end is cut off":       {5, func(l raft.LogStore) error { return l.DeleteRange(4, 5) }, 3},
		"everything is cut off":    {5, func(l raft.LogStore) error { return l.DeleteRange(1, 5) }, 0},
		"the first entry is not 1": {0, func(l raft.LogStore) error { return l.StoreLog(entry(1000)) }, 1000},
		"the beginning is cut off": {30, func(l raft.LogStore) error { return l.DeleteRange(1, 20) }, 30},
		"one after the other": {0, func(l raft.LogStore) error {
			last, err := l.LastIndex()
			for err == nil && last < 30 {
				last++
				err = l.StoreLog(entry(last))
			}
			return err
		}, 30},
	} {
		for step := 1; step <= 40; step++ {
			disk := raftstoretest.NewDisk()
			w := newLogWriter(t, disk)
			l, err := raftstore.OpenLog(&w.cfg, "log")
			if err != nil {
				t.Fatal(err)
			}
			for i := range c.stored {
				if err := l.StoreLog(entry(i + 1)); err != nil {
					t.Fatal(err)
				}
			}
			disk.Before(step, func() { disk.Fill(true) })
			failed := c.change(l)
			if failed != nil && !errors.Is(failed, syscall.ENOSPC) {
				t.Fatalf("%s, full from step %d on: %v", name, step, failed)
			}
			disk.Before(0, nil)
			disk.Fill(false)
			if failed != nil {
				failures[name]++
				if err := c.change(l); err != nil {
					t.Fatalf("%s, full from step %d on, then with room: %v", name, step, err)
				}
			}
			next := c.last + 1
			if next == 1 {
				next = c.stored + 1 // as after a snapshot
			}
			if err := l.StoreLog(entry(next)); err != nil {
				t.Fatalf("%s, full from step %d on, then entry %d: %v", name, step, next, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if l, err = raftstore.OpenLog(&w.cfg, "log"); err != nil {
				t.Fatalf("%s, full from step %d on, opened again: %v", name, step, err)
			}
			if last, err := l.LastIndex(); err != nil || last != next {
				t.Fatalf("%s, full from step %d on, opened again: the log ends at %d, want %d (%v)", name, step, last, next, err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, name := range []string{"the end is cut off", "everything is cut off", "the first entry is not 1", "one after the other"} {
		if failures[name] == 0 {
			t.Errorf("%s: no change failed", name)
		}
	}
}

// entry is small, so that a file holds a few.
func entry(index uint64) *raft.Log {
	return &raft.Log{Index: index, Term: 1, Data: bytes.Repeat([]byte{1}, 300)}
}
