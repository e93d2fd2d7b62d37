package raftstore

import (
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// The digest shows another verdict, another value and another order, and nothing else:
// the words of a refusal may differ between versions.
func TestWhatADigestShows(t *testing.T) {
	judge := func(verdict error, values ...string) digest {
		set, err := newConstraintSet([]Constraint{{Name: "rule", Version: 1, Check: func(View, *Txn, []byte) error { return verdict }}})
		if err != nil {
			t.Fatal(err)
		}
		m := newMachine(set, KnownLevels())
		for _, value := range values {
			txn := Txn{RequestID: value, Ops: []Op{{Key: "/k", Value: []byte(value)}}, Constraints: []ConstraintCall{{Name: "rule", Version: 1}}}
			if _, _, err := applyTxns(m, txn); err != nil {
				t.Fatal(err)
			}
		}
		return m.digest
	}
	if first, again := judge(nil, "a", "b"), judge(nil, "a", "b"); first != again {
		t.Error("the same log has two digests")
	}
	if judge(errors.New("no"), "a") != judge(errors.New("this cannot be"), "a") {
		t.Error("the words of a refusal change the digest")
	}
	// These entries have the same txn, verdict and changes. Only their bytes differ.
	txn := Txn{RequestID: "1", Ops: []Op{{Key: "/k", Value: []byte("v")}}}
	one, other := newMachine(nil, KnownLevels()), newMachine(nil, KnownLevels())
	for m, since := range map[*machine]uint64{one: 0, other: 7} {
		if _, _, err := m.apply(encodeEntry(BaseLevel, [][]byte{encodeTxn(&txn, since)})); err != nil {
			t.Fatal(err)
		}
	}
	if one.digest == other.digest {
		t.Error("another entry has the same digest")
	}
	for what, other := range map[string]digest{
		"another verdict": judge(errors.New("no"), "a", "b"), "another order": judge(nil, "b", "a"),
		"a txn less": judge(nil, "a"), "another value": judge(nil, "a", "c"),
	} {
		if other == judge(nil, "a", "b") {
			t.Errorf("%s has the same digest", what)
		}
	}
	// The same log, kept otherwise: with one bit of the state changed, it goes on differently.
	m, flipped := newMachine(nil, KnownLevels()), newMachine(nil, KnownLevels())
	for _, one := range []*machine{m, flipped} {
		if _, _, err := applyTxns(one, Txn{RequestID: "1", Ops: []Op{{Key: "/k"}}}); err != nil {
			t.Fatal(err)
		}
	}
	flipped.get("/k").createRevision++
	for _, one := range []*machine{m, flipped} {
		if _, _, err := applyTxns(one, Txn{RequestID: "2", Ops: []Op{{Key: "/k"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if m.digest == flipped.digest {
		t.Error("a record that differs is not shown by the next change of it")
	}
}

// A digest is found at its entry and up to the next one, as long as it is kept.
func TestDigestsAreFoundByIndex(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newDigestLog()
		kept := map[uint64]digest{0: {}}
		index, oldest := uint64(0), uint64(0)
		if rapid.Bool().Draw(t, "from a snapshot") {
			l.add(1, digest{1})
			index, oldest = 100, 100
			l.reset(index, digest{2})
			kept = map[uint64]digest{index: {2}}
		}
		entries := []uint64{index}
		for n := range rapid.SampledFrom([]int{0, 1, 5, digestWindow - 1, digestWindow, digestWindow + 3}).Draw(t, "entries") {
			gap := uint64(1 + n%3)
			for i := index + 1; i < index+gap; i++ {
				kept[i] = kept[index]
			}
			index += gap
			kept[index] = digest{3, byte(n), byte(n >> 8)}
			l.add(index, kept[index])
			entries = append(entries, index)
		}
		if len(entries) > digestWindow {
			oldest = entries[len(entries)-digestWindow]
		}
		i := rapid.Uint64Range(0, index).Draw(t, "index")
		got, ok := l.at(i)
		if ok != (i >= oldest) || ok && got != kept[i] {
			t.Fatalf("at %d of %d: %s, %v, want %s; kept from %d", i, index, got, ok, kept[i], oldest)
		}
		// What is not applied has no digest yet, also if a snapshot has just replaced a later state.
		last := kept[index]
		if got, ok := l.at(index + 3); ok {
			t.Fatalf("at %d, of %d applied: %s", index+3, index, got)
		}
		l.extend(index + 3)
		if got, ok := l.at(index + 3); !ok || got != last {
			t.Fatalf("at %d, the last entry was %d: %s, %v, want %s", index+3, index, got, ok, last)
		}
		l.reset(index+2, last)
		if got, ok := l.at(index + 3); ok {
			t.Fatalf("at %d, of %d in the snapshot: %s", index+3, index+2, got)
		}
	})
}
