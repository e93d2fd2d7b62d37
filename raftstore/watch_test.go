package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// smallHistory keeps n events.
func smallHistory(n int) raftstoretest.Option {
	return raftstoretest.WithConfig(func(c *raftstore.Config) { c.Limits.HistoryEvents = n })
}

// drain reads w until it ends.
func drain(w *raftstore.Watcher) (n int) {
	for range w.Events() {
		n++
	}
	return n
}

func TestWatchCompacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t, smallHistory(4))
		first := mustCommit(t, s, put("/k", "0"))
		var last raftstore.TxnResult
		for i := range 5 {
			last = mustCommit(t, s, put("/k", fmt.Sprint(i)))
		}
		if _, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: first.Revision}); !errors.Is(err, raftstore.ErrCompacted) {
			t.Errorf("watch from before the window: %v", err)
		}
		if _, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/", Revision: first.Revision}); !errors.Is(err, raftstore.ErrCompacted) {
			t.Errorf("list from before the window: %v", err)
		}
		w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: last.Revision - 4})
		if err != nil {
			t.Fatalf("watch from the start of the window: %v", err)
		}
		for i := range 4 {
			if e := <-w.Events(); e.Revision != last.Revision-3+uint64(i) {
				t.Errorf("event %d has revision %d", i, e.Revision)
			}
		}
	})
}

// TestTxnIsInTheHistoryAsAWhole: if the window holds only a part of a txn, that part
// cannot be watched or listed.
func TestTxnIsInTheHistoryAsAWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t, smallHistory(4))
		var txn raftstore.Txn
		for i := range 6 {
			txn.Ops = append(txn.Ops, raftstore.Op{Key: fmt.Sprint("/", i), Value: []byte("v")})
		}
		r := mustCommit(t, s, txn)
		for _, rev := range r.OpRevisions[:5] {
			if _, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: rev}); !errors.Is(err, raftstore.ErrCompacted) {
				t.Errorf("watch from the middle of a cut txn: %v", err)
			}
			if _, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/", Revision: rev}); !errors.Is(err, raftstore.ErrCompacted) {
				t.Errorf("list in the middle of a cut txn: %v", err)
			}
		}
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/", Revision: r.Revision})
		if err != nil || len(l.Records) != 6+1 {
			t.Errorf("list at the end of the txn: %d records, %v", len(l.Records), err)
		}
	})
}

func TestSlowWatcherEndsAndHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		s := raftstoretest.New(t, smallHistory(50), raftstoretest.WithConfig(func(c *raftstore.Config) { c.Registerer = reg }))
		slow, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/k/"})
		if err != nil {
			t.Fatal(err)
		}
		idle, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/other/"})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 400 {
			mustCommit(t, s, put(fmt.Sprint("/k/", i), "v"))
		}
		n := drain(slow)
		if !errors.Is(slow.Err(), raftstore.ErrSlowWatcher) {
			t.Errorf("slow watcher ended with %v after %d events", slow.Err(), n)
		}
		mustCommit(t, s, put("/other/1", "v"))
		if e := <-idle.Events(); e.Record.Key != "/other/1" {
			t.Errorf("watcher of a quiet prefix got %+v", e)
		}
		// Ending a watch for another reason does not count.
		idle.Stop()
		if got := gather(t, reg)["virtmesh_store_slow_watchers_total"]; got != 1 {
			t.Errorf("%v slow watchers are counted, want 1", got)
		}
	})
}

// noise returns a value that cannot be kept in less memory than its length.
func noise(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return string(b)
}

func TestHistoryIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t, raftstoretest.WithConfig(func(c *raftstore.Config) { c.Limits.HistoryBytes = 64 << 10 }))
		first := mustCommit(t, s, put("/k", ""))
		for range 20 {
			mustCommit(t, s, put("/k", noise(10<<10)))
		}
		if _, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: first.Revision}); !errors.Is(err, raftstore.ErrCompacted) {
			t.Errorf("history keeps 200 KiB in a window of 64: %v", err)
		}
		// An event larger than the window is still delivered.
		w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		mustCommit(t, s, put("/k", strings.Repeat("x", 100<<10)))
		if e := <-w.Events(); len(e.Record.Value) != 100<<10 {
			t.Errorf("event with %d bytes", len(e.Record.Value))
		}
	})
}

func TestWatchEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		ctx, cancel := context.WithCancel(t.Context())
		w, err := s.Watch(ctx, raftstore.WatchRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		if drain(w); !errors.Is(w.Err(), context.Canceled) {
			t.Errorf("cancelled watch ended with %v", w.Err())
		}
		w, err = s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if drain(w); !errors.Is(w.Err(), raftstore.ErrClosed) {
			t.Errorf("watch of a closed store ended with %v", w.Err())
		}
		if _, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/"}); !errors.Is(err, raftstore.ErrClosed) {
			t.Errorf("watch on a closed store: %v", err)
		}
	})
}

func TestBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/a", Bookmarks: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		r := mustCommit(t, s, put("/b", "not watched"))
		begin := time.Now()
		e := <-w.Events()
		if e.Type != raftstore.Bookmark || e.Revision != r.Revision {
			t.Errorf("event %+v", e)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("bookmark came after %s", took)
		}
		w.Stop()
	})
}

// TestWatchSeesEverythingInOrder: watchers that start from a list at any time during
// concurrent writes end up with the same state as the store.
func TestWatchSeesEverythingInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := raftstoretest.NewCluster(t, 3)
		const writers, writes = 4, 60
		var wg sync.WaitGroup
		for n := range writers {
			s := c.Live()[n%3]
			wg.Go(func() {
				for i := range writes {
					txn := put(fmt.Sprintf("/k/%d", (n+i)%7), fmt.Sprint(n, i))
					if i%5 == 0 {
						txn.Ops = append(txn.Ops, raftstore.Op{Key: fmt.Sprintf("/k/%d", i%7), Delete: true})
					}
					if _, err := s.Commit(t.Context(), txn); err != nil {
						t.Error(err)
					}
				}
			})
		}
		var watchers sync.WaitGroup
		for _, s := range c.Live() {
			for range 3 {
				watchers.Go(func() { followState(t, s) })
			}
		}
		wg.Wait()
		mustCommit(t, c.Live()[0], put("/k/end", "end"))
		watchers.Wait()
	})
}

// followState lists, watches on, and compares with the state at the end.
func followState(t *testing.T, s *raftstore.Store) {
	l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
	if err != nil {
		t.Error(err)
		return
	}
	have := map[string]raftstore.Record{}
	for _, r := range l.Records {
		have[r.Key] = r
	}
	w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/k/", Revision: l.Revision})
	if err != nil {
		t.Error(err)
		return
	}
	defer w.Stop()
	last := l.Revision
	for have["/k/end"].Key == "" {
		e := <-w.Events()
		if e.Revision <= last {
			t.Errorf("event %d after %d", e.Revision, last)
		}
		last = e.Revision
		if prev, ok := have[e.Record.Key]; ok != (e.Prev != nil) || (ok && prev.ModRevision != e.Prev.ModRevision) {
			t.Errorf("event %+v does not follow %+v", e, prev)
		}
		if e.Type == raftstore.Delete {
			delete(have, e.Record.Key)
		} else {
			have[e.Record.Key] = e.Record
		}
	}
	end, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/", Revision: last})
	if err != nil || len(end.Records) != len(have) {
		t.Errorf("followed to %d records, the store has %d, %v", len(have), len(end.Records), err)
		return
	}
	for _, r := range end.Records {
		if have[r.Key].ModRevision != r.ModRevision {
			t.Errorf("followed to %+v, the store has %+v", have[r.Key], r)
		}
	}
}
