package raftstore

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// TestPagesOfAPast lists past states of enough records for a tree of several levels, page
// by page, while records come and go: all pages together are the whole list of that
// revision, and each says how many records are behind it.
func TestPagesOfAPast(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, h := testMachine(t), newHistory(DefaultConfig().Limits)
		key := func(i int) string { return fmt.Sprintf("/%c/%04d", 'a'+rune(i%3), i) }
		number := rapid.IntRange(0, 600)
		for i := range 3 {
			txn := Txn{RequestID: fmt.Sprint("fill", i)}
			for j := range number.Draw(t, "records") {
				txn.Ops = append(txn.Ops, Op{Key: key(j), Value: []byte("v"), Delete: (i+j)%5 == 0})
			}
			publishTxn(t, m, h, txn)
		}
		prefix := rapid.SampledFrom([]string{"", "/", "/a/", "/b/", "/c/", "/c/02", "/d/", "/b/0100"}).Draw(t, "prefix")
		revision := m.revision
		p, err := h.asOf(prefix, revision)
		if err != nil {
			t.Fatal(err)
		}
		req := ListRequest{Prefix: prefix, UnchangedSince: rapid.SampledFrom([]uint64{0, 0, revision / 2}).Draw(t, "unchanged since")}
		whole := p.list(req)
		if whole.More || whole.Remaining != 0 {
			t.Fatalf("a list without a limit leaves %d records", whole.Remaining)
		}
		req.Limit = rapid.IntRange(1, 200).Draw(t, "limit")
		listed := 0
		for i := 0; ; i++ {
			if p, err = h.asOf(prefix, revision); err != nil {
				t.Fatal(err)
			}
			page := p.list(req)
			want := whole.Records[listed:min(listed+req.Limit, len(whole.Records))]
			if !slices.EqualFunc(page.Records, want, func(a, b Record) bool { return a.Key == b.Key && a.ModRevision == b.ModRevision }) {
				t.Fatalf("page after %d of %d records differs from the list", listed, len(whole.Records))
			}
			listed += len(page.Records)
			if left := len(whole.Records) - listed; page.Remaining != int64(left) || page.More != (left > 0) {
				t.Fatalf("page after %d of %d records says %d remain, more: %v", listed, len(whole.Records), page.Remaining, page.More)
			}
			if !page.More {
				break
			}
			req.After = page.Records[len(page.Records)-1].Key
			txn := Txn{RequestID: fmt.Sprint("between", i)}
			for range rapid.IntRange(0, 5).Draw(t, "ops") {
				txn.Ops = append(txn.Ops, Op{Key: key(number.Draw(t, "key")), Value: []byte("w"), Delete: rapid.Bool().Draw(t, "delete")})
			}
			publishTxn(t, m, h, txn)
		}
	})
}

// publishTxn applies a txn and makes its changes visible.
func publishTxn(t *rapid.T, m *machine, h *history, txn Txn) {
	_, changes, err := applyTxns(m, txn)
	if err != nil {
		t.Fatal(err)
	}
	h.publish(m, changes)
}
