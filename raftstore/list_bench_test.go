package raftstore_test

import (
	"fmt"
	"testing"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// BenchmarkList lists 100,000 records of 1 KiB that differ by a name: whole, and in pages
// of 500 at the revision of the first one, of the present state and with 1,000 records
// changed since. An op is a whole list or a single page.
func BenchmarkList(b *testing.B) {
	const records, page = 100_000, 500
	s := raftstoretest.New(b)
	value := make([]byte, 1024)
	fill := func(from, to int) {
		for from < to {
			txn := raftstore.Txn{}
			for ; from < to && len(txn.Ops) < 500; from++ {
				txn.Ops = append(txn.Ops, raftstore.Op{Key: fmt.Sprintf("/bench/%06d", from), Value: value})
			}
			mustCommit(b, s, txn)
		}
	}
	fill(0, records)
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	list := func(b *testing.B, req raftstore.ListRequest) raftstore.ListResult {
		req.Prefix, req.Compact, req.ReadOptions = "/bench/", true, local
		res, err := s.List(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		return res
	}
	b.Run("whole", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			list(b, raftstore.ListRequest{})
		}
	})
	at := s.Revision()
	for _, changed := range []int{0, 1000} {
		fill(0, changed)
		for _, first := range []int{0, records / 2, records - 2*page} {
			b.Run(fmt.Sprintf("changed=%d/page-from=%d", changed, first), func(b *testing.B) {
				b.ReportAllocs()
				req := raftstore.ListRequest{Limit: page, Revision: at, After: fmt.Sprintf("/bench/%06d", first)}
				for b.Loop() {
					if res := list(b, req); res.Remaining != int64(records-first-1-page) {
						b.Fatal("records left: ", res.Remaining)
					}
				}
			})
		}
	}
}
