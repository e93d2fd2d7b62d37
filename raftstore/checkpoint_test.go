package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// A checkpoint changes the digest, and nothing that a reader, a watcher or a retry sees.
func TestACheckpointChangesNothing(t *testing.T) {
	m, h := newMachine(nil, KnownLevels()), newHistory(DefaultConfig().Limits)
	txn := Txn{RequestID: "1", Ops: []Op{{Key: "/k", Value: []byte("v")}}}
	_, changes, err := applyTxns(m, txn)
	if err != nil {
		t.Fatal(err)
	}
	h.publish(m, changes)
	records, digest, state, stats := treeRecords(m.tree), m.digest, h.current(), h.stats()
	outcomes, changes, err := applyTxns(m)
	if err != nil || len(outcomes)+len(changes) != 0 {
		t.Fatalf("a checkpoint has outcomes %v and changes %v: %v", outcomes, changes, err)
	}
	h.publish(m, changes)
	if m.digest == digest {
		t.Error("the digest has not changed")
	}
	after := h.current()
	if after.revision != state.revision || after.seq != state.seq || after.bytes != state.bytes || h.stats() != stats || !reflect.DeepEqual(treeRecords(m.tree), records) {
		t.Errorf("a checkpoint changed the state from %+v to %+v", state, after)
	}
	again, changes, err := applyTxns(m, txn)
	if err != nil || again[0].kind != outcomeApplied || len(changes) != 0 {
		t.Errorf("a retry behind a checkpoint: %+v, %v, %v", again, changes, err)
	}
}

// Replicas that hold the same have the same hash of their states, however they came by
// it; and any difference that could matter shows.
func TestWhatAStateHashShows(t *testing.T) {
	build := func(t *rapid.T, reason string) *machine {
		set, err := newConstraintSet([]Constraint{{Name: "rule", Version: 1, Check: func(View, *Txn, []byte) error { return errors.New(reason) }}})
		if err != nil {
			t.Fatal(err)
		}
		return newMachine(set, KnownLevels())
	}
	rapid.Check(t, func(t *rapid.T) {
		m, twin := build(t, "no"), build(t, "this cannot be")
		for i := range rapid.IntRange(1, 20).Draw(t, "txns") {
			txn := Txn{RequestID: fmt.Sprint(i), Ops: []Op{{Key: fmt.Sprint("/k/", rapid.IntRange(0, 9).Draw(t, "key")), Value: []byte{byte(i)}}}}
			if rapid.IntRange(0, 3).Draw(t, "refused") == 0 {
				txn.Constraints = []ConstraintCall{{Name: "rule", Version: 1}}
			}
			for _, one := range []*machine{m, twin} {
				if _, _, err := applyTxns(one, txn); err != nil {
					t.Fatal(err)
				}
			}
		}
		want := m.snapshot(7).hash()
		if got := snapshotAndRestore(t, twin).snapshot(7).hash(); got != want {
			t.Fatalf("the state restored elsewhere has hash %s, want %s", got, want)
		}
		if m.snapshot(8).hash() == want {
			t.Error("the same state at another log index has the same hash")
		}
		change := rapid.SampledFrom([]string{"value", "revision", "lost record", "lost request", "verdict", "seq", "digest"}).Draw(t, "change")
		damage(m, change)
		if m.snapshot(7).hash() == want {
			t.Errorf("a changed %s does not show", change)
		}
	})
}

// damage changes one detail of a state.
func damage(m *machine, detail string) {
	var first *stored
	m.tree.Scan(func(r *stored) bool { first = r; return false })
	if first == nil && (detail == "value" || detail == "revision" || detail == "lost record") {
		detail = "digest" // all txns were refused
	}
	switch detail {
	case "value":
		changed := *first
		changed.value = packed{bytes: bytes.Repeat([]byte{255}, first.value.size())}
		m.tree.Set(&changed)
	case "revision":
		changed := *first
		changed.modRevision++
		m.tree.Set(&changed)
	case "lost record":
		m.tree.Delete(first)
	case "lost request":
		m.requests.slots = m.requests.slots[1:]
	case "verdict":
		m.requests.slots[0].kind ^= 1
	case "seq":
		m.requests.seq++
	case "digest":
		m.digest[0] ^= 1
	}
}

// However many ask, a leader makes a checkpoint every ten seconds at most.
func TestCheckpointsAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gate checkpointGate
		made := 0
		for range 600 {
			if gate.pass() {
				made++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if made != 6 {
			t.Errorf("%d checkpoints within a minute, want 6", made)
		}
	})
}
