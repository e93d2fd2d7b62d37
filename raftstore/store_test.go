package raftstore_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func put(key, value string) raftstore.Txn {
	return raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: []byte(value)}}}
}

func mustCommit(t testing.TB, s *raftstore.Store, txn raftstore.Txn) raftstore.TxnResult {
	t.Helper()
	r, err := s.Commit(t.Context(), txn)
	if err != nil {
		t.Fatalf("commit %+v: %v", txn, err)
	}
	return r
}

func TestCommitThenRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		first := mustCommit(t, s, raftstore.Txn{Ops: []raftstore.Op{
			{Key: "/a/1", Value: []byte("one")}, {Key: "/a/2", Value: []byte("two")}, {Key: "/b/1", Value: []byte("b")},
		}})
		if len(first.OpRevisions) != 3 || first.OpRevisions[2] != first.Revision || first.OpRevisions[0] != first.Revision-2 {
			t.Fatalf("revisions %+v", first)
		}
		second := mustCommit(t, s, put("/a/1", "uno"))
		if second.Revision != first.Revision+1 {
			t.Fatalf("second revision %d after %d", second.Revision, first.Revision)
		}
		r, at, err := s.Get(t.Context(), "/a/1", raftstore.ReadOptions{})
		if err != nil || string(r.Value) != "uno" || r.CreateRevision != first.OpRevisions[0] || r.ModRevision != second.Revision || at != second.Revision {
			t.Fatalf("get: %+v at %d, %v", r, at, err)
		}
		if _, _, err := s.Get(t.Context(), "/none", raftstore.ReadOptions{}); !errors.Is(err, raftstore.ErrNotFound) {
			t.Fatalf("get of nothing: %v", err)
		}
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/a/"})
		if err != nil || len(l.Records) != 2 || l.Records[0].Key != "/a/1" || l.More || l.Revision != second.Revision {
			t.Fatalf("list: %+v, %v", l, err)
		}
		old, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/a/", Revision: first.OpRevisions[0]})
		if err != nil || len(old.Records) != 2 || string(old.Records[0].Value) != "one" || old.Revision != first.Revision {
			t.Fatalf("list in the past: %+v, %v", old, err)
		}
		page, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/", Limit: 1, After: "/a/1"})
		if err != nil || len(page.Records) != 1 || page.Records[0].Key != "/a/2" || !page.More || page.Remaining != 2 {
			t.Fatalf("page: %+v, %v", page, err)
		}
	})
}

// TestScanIsOfOneState: a scan goes on with the state that it began with, whatever changes
// before the caller takes the rest.
func TestScanIsOfOneState(t *testing.T) {
	const records = 500
	s := raftstoretest.New(t)
	fill := raftstore.Txn{}
	for i := range records {
		fill.Ops = append(fill.Ops, raftstore.Op{Key: fmt.Sprintf("/a/%04d", i), Value: fmt.Appendf(nil, "%0200d", i)})
	}
	filled := mustCommit(t, s, fill)
	scan, at, err := s.Scan(t.Context(), "/a/", raftstore.ReadOptions{})
	if err != nil || at != filled.Revision {
		t.Fatalf("scan at %d: %v, want %d", at, err, filled.Revision)
	}
	taken := 0
	for r := range scan {
		if want := fill.Ops[taken]; r.Key != want.Key || string(r.Expand().Value) != string(want.Value) || r.ModRevision != filled.OpRevisions[taken] {
			t.Fatalf("record %d is %s of %d, want %s of %d", taken, r.Key, r.ModRevision, want.Key, filled.OpRevisions[taken])
		}
		if taken++; taken == 2 {
			change := raftstore.Txn{Ops: []raftstore.Op{{Key: "/a/0003", Delete: true}, {Key: "/a/0003x", Value: []byte("new")}}}
			for i := 4; i < records; i++ {
				change.Ops = append(change.Ops, raftstore.Op{Key: fill.Ops[i].Key, Value: []byte("changed")})
			}
			mustCommit(t, s, change)
		}
	}
	if taken != records {
		t.Fatalf("scanned %d records, want %d", taken, records)
	}
}

func TestWatchFromRevision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := raftstoretest.New(t)
		start := s.Revision()
		a := mustCommit(t, s, put("/a", "1"))
		w, err := s.Watch(t.Context(), raftstore.WatchRequest{Prefix: "/", Revision: start})
		if err != nil {
			t.Fatal(err)
		}
		b := mustCommit(t, s, raftstore.Txn{Ops: []raftstore.Op{{Key: "/b", Value: []byte("2")}, {Key: "/a", Delete: true}}})
		want := []raftstore.Event{
			{Type: raftstore.Put, Revision: a.Revision}, {Type: raftstore.Put, Revision: b.OpRevisions[0]}, {Type: raftstore.Delete, Revision: b.OpRevisions[1]},
		}
		for i, e := range want {
			got := <-w.Events()
			if got.Type != e.Type || got.Revision != e.Revision {
				t.Fatalf("event %d: %+v, want %+v", i, got, e)
			}
			if got.Type == raftstore.Delete && (got.Prev == nil || string(got.Prev.Value) != "1") {
				t.Fatalf("deletion without what was deleted: %+v", got)
			}
		}
		w.Stop()
		if _, ok := <-w.Events(); ok || w.Err() != nil {
			t.Fatalf("after stop: %v, %v", ok, w.Err())
		}
	})
}
