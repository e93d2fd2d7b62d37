package raftstore

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// quota refuses states in which more than args[0] keys are below /q/.
var quota = Constraint{Name: "quota", Version: 1, Check: func(v View, _ *Txn, args []byte) error {
	n := 0
	v.Ascend("/q/", func(Record) bool { n++; return true })
	if n > int(args[0]) {
		return fmt.Errorf("%d keys, the limit is %d", n, args[0])
	}
	return nil
}}

func testMachine(t interface{ Fatal(...any) }) *machine {
	set, err := newConstraintSet([]Constraint{quota})
	if err != nil {
		t.Fatal(err)
	}
	return newMachine(set, KnownLevels())
}

// applyTxns applies txns as one entry, as if their proposer's replica were up to date.
func applyTxns(m *machine, txns ...Txn) ([]outcome, []change, error) {
	var envelopes [][]byte
	for i := range txns {
		envelopes = append(envelopes, encodeTxn(&txns[i], m.requests.seq))
	}
	return m.apply(encodeEntry(BaseLevel, envelopes))
}

// model is a simple and slow implementation of the state machine.
type model struct {
	records  map[string]Record
	revision uint64
}

func (m *model) apply(t Txn) outcomeKind {
	for _, c := range t.If {
		if m.records[c.Key].ModRevision != c.ModRevision {
			return outcomeConflict
		}
	}
	next := maps.Clone(m.records)
	rev := m.revision
	for _, op := range t.Ops {
		rev++
		if op.Delete {
			delete(next, op.Key)
			continue
		}
		create := rev
		if old, ok := next[op.Key]; ok {
			create = old.CreateRevision
		}
		next[op.Key] = Record{Key: op.Key, Value: op.Value, CreateRevision: create, ModRevision: rev}
	}
	for _, c := range t.Constraints {
		n := 0
		for k := range next {
			if strings.HasPrefix(k, "/q/") {
				n++
			}
		}
		if n > int(c.Args[0]) {
			return outcomeRefused
		}
	}
	m.records, m.revision = next, rev
	return outcomeApplied
}

func drawTxn(t *rapid.T, m *model, id string) Txn {
	keys := rapid.SampledFrom([]string{"/a", "/b", "/q/1", "/q/2", "/q/3", "/q/4"})
	txn := Txn{RequestID: id}
	for range rapid.IntRange(0, 2).Draw(t, "conditions") {
		key := keys.Draw(t, "key")
		rev := m.records[key].ModRevision
		if rapid.IntRange(0, 3).Draw(t, "wrong") == 0 {
			rev++
		}
		txn.If = append(txn.If, Condition{key, rev})
	}
	for range rapid.IntRange(0, 4).Draw(t, "ops") {
		op := Op{Key: keys.Draw(t, "key"), Delete: rapid.Bool().Draw(t, "delete")}
		if !op.Delete {
			// Some are long enough to be packed.
			beginning := rapid.SampledFrom([]string{"", strings.Repeat("the same beginning ", 10)}).Draw(t, "beginning")
			op.Value = []byte(beginning + rapid.StringN(0, 4, 4).Draw(t, "value"))
		}
		txn.Ops = append(txn.Ops, op)
	}
	if rapid.Bool().Draw(t, "constrained") {
		limit := rapid.IntRange(1, 3).Draw(t, "limit")
		txn.Constraints = []ConstraintCall{{Name: "quota", Version: 1, Args: []byte{byte(limit)}}}
	}
	return txn
}

// treeRecords returns the records of the machine.
func treeRecords(t *tree) map[string]Record {
	got := make(map[string]Record)
	t.Scan(func(r *stored) bool { got[r.key] = r.record(); return true })
	return got
}

func sameRecords(a, b map[string]Record) bool {
	return maps.EqualFunc(a, b, func(x, y Record) bool {
		return x.Key == y.Key && bytes.Equal(x.Value, y.Value) && x.CreateRevision == y.CreateRevision && x.ModRevision == y.ModRevision
	})
}

// TestMachineFollowsModel applies random entries to the machine and to the model. It
// retries requests, restores snapshots in between, and lists past states.
func TestMachineFollowsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := testMachine(t)
		ref := &model{records: map[string]Record{}, revision: firstRevision}
		limits := DefaultConfig().Limits
		limits.HistoryEvents = rapid.IntRange(1, 20).Draw(t, "history")
		h := newHistory(limits)
		past := map[uint64]map[string]Record{firstRevision: {}}
		done := map[string]outcome{}
		sent := map[string]Txn{}
		for i := range rapid.IntRange(1, 30).Draw(t, "steps") {
			txn := drawTxn(t, ref, fmt.Sprint("r", i))
			outcomes, changes, err := applyTxns(m, txn)
			if err != nil {
				t.Fatal(err)
			}
			h.publish(m, changes)
			kind := ref.apply(txn)
			if outcomes[0].kind != kind || m.revision != ref.revision || !sameRecords(treeRecords(m.tree), ref.records) {
				t.Fatalf("after %+v: outcome %d at %d, want %d at %d\n%v\n%v", txn, outcomes[0].kind, m.revision, kind, ref.revision, treeRecords(m.tree), ref.records)
			}
			past[ref.revision] = maps.Clone(ref.records)
			done[txn.RequestID], sent[txn.RequestID] = outcomes[0], txn
			if rapid.IntRange(0, 4).Draw(t, "restore") == 0 {
				m = snapshotAndRestore(t, m)
			}
			retry := fmt.Sprint("r", rapid.IntRange(0, i).Draw(t, "retry"))
			again, more, err := applyTxns(m, sent[retry])
			if err != nil || len(more) != 0 || again[0].kind != done[retry].kind || again[0].revision != done[retry].revision || again[0].ops != done[retry].ops {
				t.Fatalf("retry of %s: %+v, %v, want %+v", retry, again, err, done[retry])
			}
		}
		checkPast(t, h, past)
	})
}

// checkPast compares the lists at all past revisions with the model.
func checkPast(t *rapid.T, h *history, past map[uint64]map[string]Record) {
	for rev, want := range past {
		p, err := h.asOf("/", rev)
		if errors.Is(err, ErrCompacted) && rev < h.compacted {
			continue
		}
		if err != nil {
			t.Fatalf("state at %d: %v", rev, err)
		}
		got := map[string]Record{}
		var keys []string
		p.ascend("/", "", func(r *stored) bool {
			got[r.key] = r.record()
			keys = append(keys, r.key)
			return true
		})
		if !sameRecords(got, want) || !slices.IsSorted(keys) || p.revision != rev {
			t.Fatalf("state at %d is %v in order %v at %d, want %v", rev, got, keys, p.revision, want)
		}
	}
}

// snapshotAndRestore writes m as a snapshot and reads it back.
func snapshotAndRestore(t *rapid.T, m *machine) *machine {
	var buf bytes.Buffer
	if err := m.snapshot(7).write(&buf); err != nil {
		t.Fatal(err)
	}
	restored, index, err := readSnapshot(&buf, m.constraints, KnownLevels())
	if err != nil || index != 7 {
		t.Fatal(index, err)
	}
	if restored.digest != m.digest {
		t.Fatalf("restored digest %s, had %s", restored.digest, m.digest)
	}
	if restored.bytes != m.bytes || restored.requests.floor() != m.requests.floor() {
		t.Fatalf("restored %d bytes, floor %d; had %d, %d", restored.bytes, restored.requests.floor(), m.bytes, m.requests.floor())
	}
	return restored
}

func TestRefusedTxnLeavesNothing(t *testing.T) {
	m := testMachine(t)
	if _, _, err := applyTxns(m, Txn{RequestID: "1", Ops: []Op{{Key: "/q/1", Value: []byte("v")}}}); err != nil {
		t.Fatal(err)
	}
	before, rev, size := treeRecords(m.tree), m.revision, m.bytes
	out, changes, err := applyTxns(m, Txn{
		RequestID: "2",
		Ops: []Op{
			{Key: "/q/1", Value: []byte("changed")}, {Key: "/q/2", Value: []byte("x")},
			{Key: "/q/2", Delete: true}, {Key: "/q/2", Value: []byte("y")}, {Key: "/q/9", Delete: true},
		},
		Constraints: []ConstraintCall{{Name: "quota", Version: 1, Args: []byte{1}}},
	})
	if err != nil || out[0].kind != outcomeRefused || out[0].constraint.Reason != "2 keys, the limit is 1" {
		t.Fatalf("outcome %+v, %v", out, err)
	}
	if len(changes) != 0 || m.revision != rev || m.bytes != size || !sameRecords(before, treeRecords(m.tree)) {
		t.Errorf("refused txn left %v, %v", changes, treeRecords(m.tree))
	}
}

func TestUnknownConstraintChangesNothing(t *testing.T) {
	m := testMachine(t)
	_, _, err := applyTxns(m,
		Txn{RequestID: "1", Ops: []Op{{Key: "/a", Value: []byte("v")}}},
		Txn{RequestID: "2", Constraints: []ConstraintCall{{Name: "quota", Version: 2}}})
	if !errors.Is(err, ErrUnknownConstraint) {
		t.Fatalf("error %v", err)
	}
	if m.tree.Len() != 0 || m.revision != firstRevision || m.requests.seq != 0 {
		t.Error("half of the entry was applied")
	}
}

func TestRequestIDReuseIsRefused(t *testing.T) {
	m := testMachine(t)
	out, _, err := applyTxns(m,
		Txn{RequestID: "1", Ops: []Op{{Key: "/a", Value: []byte("v")}}},
		Txn{RequestID: "1", Ops: []Op{{Key: "/a", Value: []byte("w")}}})
	if err != nil || out[1].kind != outcomeReused || m.revision != firstRevision+1 {
		t.Fatalf("outcomes %+v, %v", out, err)
	}
}

// TestForgottenRequestIsNotRepeated fills the table and retries the first one.
func TestForgottenRequestIsNotRepeated(t *testing.T) {
	m := testMachine(t)
	first := Txn{RequestID: "first", Ops: []Op{{Key: "/a", Value: []byte("v")}}}
	envelope := encodeTxn(&first, 0)
	if _, _, err := m.apply(encodeEntry(BaseLevel, [][]byte{envelope})); err != nil {
		t.Fatal(err)
	}
	for i := range maxRequests {
		if _, _, err := applyTxns(m, Txn{RequestID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	out, changes, err := m.apply(encodeEntry(BaseLevel, [][]byte{envelope}))
	if err != nil || out[0].kind != outcomeTooOld || len(changes) != 0 {
		t.Fatalf("outcome %+v, %v, %v", out, changes, err)
	}
	// A request first made now, by a replica that is up to date, is judged.
	if out, _, err = applyTxns(m, Txn{RequestID: "new"}); err != nil || out[0].kind != outcomeApplied {
		t.Fatalf("outcome %+v, %v", out, err)
	}
	if got := len(m.requests.slots); got != maxRequests || len(m.requests.index) != maxRequests {
		t.Errorf("table holds %d outcomes, %d IDs", got, len(m.requests.index))
	}
	restored := restoreRequests(m.requests.seq, m.requests.oldestFirst())
	if restored.floor() != m.requests.floor() || !reflect.DeepEqual(restored.oldestFirst(), m.requests.oldestFirst()) {
		t.Error("restored table differs")
	}
}

func TestDamagedEntryIsNotApplied(t *testing.T) {
	m := testMachine(t)
	txn := Txn{RequestID: "1", Ops: []Op{{Key: "/a", Value: []byte("v")}}}
	entry := encodeEntry(BaseLevel, [][]byte{encodeTxn(&txn, 0)})
	for i := range entry {
		damaged := bytes.Clone(entry)
		damaged[i] ^= 0x40
		if _, _, err := m.apply(damaged); err == nil {
			t.Errorf("entry with byte %d flipped was applied", i)
		}
	}
	for n := range entry {
		if _, _, err := m.apply(entry[:n]); err == nil {
			t.Errorf("entry cut to %d bytes was applied", n)
		}
	}
	if m.revision != firstRevision {
		t.Error("state changed")
	}
}

func TestDamagedSnapshotIsRefused(t *testing.T) {
	m := testMachine(t)
	if _, _, err := applyTxns(m, Txn{RequestID: "1", Ops: []Op{{Key: "/a", Value: []byte("value")}}}); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	s := &snapshot{tree: m.tree, index: 1, revision: m.revision, seq: m.requests.seq, requests: m.requests.oldestFirst()}
	if err := s.write(&buf); err != nil {
		t.Fatal(err)
	}
	whole := buf.Bytes()
	for i := range whole {
		damaged := bytes.Clone(whole)
		damaged[i] ^= 0x01
		if _, _, err := readSnapshot(bytes.NewReader(damaged), nil, KnownLevels()); err == nil {
			t.Errorf("snapshot with byte %d flipped was read", i)
		}
		if _, _, err := readSnapshot(bytes.NewReader(whole[:i]), nil, KnownLevels()); err == nil {
			t.Errorf("snapshot cut to %d bytes was read", i)
		}
	}
}
