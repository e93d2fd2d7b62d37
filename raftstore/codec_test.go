package raftstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"
)

func TestTxnRoundTrip(t *testing.T) {
	txn := Txn{
		RequestID:   "id",
		If:          []Condition{{Key: "/a", ModRevision: 7}, {Key: "/b"}},
		Ops:         []Op{{Key: "/a", Value: []byte("v")}, {Key: "/b", Delete: true}, {Key: "/c", Value: []byte{}}},
		Constraints: []ConstraintCall{{Name: "n", Version: 3, Args: []byte("args")}},
	}
	b := encodeTxn(&txn, 42)
	got, since, err := decodeTxn(b)
	if err != nil || since != 42 || !reflect.DeepEqual(*got, txn) {
		t.Fatalf("decoded %+v since %d, %v", got, since, err)
	}
	clear(b)
	if !reflect.DeepEqual(*got, txn) {
		t.Error("decoded txn aliases the buffer")
	}
	calls, err := decodeCalls(encodeTxn(&txn, 0))
	if err != nil || !reflect.DeepEqual(calls, txn.Constraints) {
		t.Errorf("calls %+v, %v", calls, err)
	}
}

func FuzzDecodeTxn(f *testing.F) {
	f.Add([]byte{})
	f.Add(encodeTxn(&Txn{}, 0))
	f.Add(encodeTxn(&Txn{
		RequestID: "id", If: []Condition{{Key: "/a", ModRevision: 1}},
		Ops:         []Op{{Key: "/a", Value: []byte("v")}, {Key: "/b", Delete: true}},
		Constraints: []ConstraintCall{{Name: "n", Version: 1, Args: []byte("x")}},
	}, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		txn, since, err := decodeTxn(b)
		if err != nil {
			return
		}
		again, since2, err := decodeTxn(encodeTxn(txn, since))
		if err != nil || since != since2 || !reflect.DeepEqual(txn, again) {
			t.Fatalf("%+v became %+v, %v", txn, again, err)
		}
		if _, err := decodeCalls(b); err != nil {
			t.Fatalf("decodes, but its calls do not: %v", err)
		}
	})
}

// TestDamagedFormat: a format that was damaged is damage, whose remedy is to fetch the data
// again, and one of a later version is not: its remedy is to install that version.
func TestDamagedFormat(t *testing.T) {
	envelopes := [][]byte{encodeTxn(&Txn{RequestID: "1"}, 0)}
	for level := uint32(BaseLevel); level <= FollowersLevel; level++ {
		entry := encodeEntry(level, envelopes)
		if got, err := decodeEntry(entry); err != nil || !reflect.DeepEqual(got, envelopes) {
			t.Fatalf("level %d: %q, %v", level, got, err)
		}
		for format := range 256 {
			damaged := bytes.Clone(entry)
			if damaged[0] = byte(format); damaged[0] == entry[0] {
				continue
			}
			if _, err := decodeEntry(damaged); !errors.Is(err, ErrCorruptLog) || errors.Is(err, ErrFeatureLevel) {
				t.Errorf("level %d, format %d for %d: %v", level, format, entry[0], err)
			}
		}
	}
	later := encodeEntry(FollowersLevel, envelopes)
	later[0] = byte(len(entryFormats().since) + 1)
	binary.LittleEndian.PutUint32(later[1:], entryChecksum(later))
	if _, err := decodeEntry(later); !errors.Is(err, ErrFeatureLevel) || errors.Is(err, ErrCorruptLog) {
		t.Errorf("a later format: %v", err)
	}
	if first := foundingEntry(groupLevel{FollowersLevel, "v2"}); first[0] != 1 {
		t.Errorf("the first entry of a group has format %d, which no earlier version reads", first[0])
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add([]byte{})
	for level := uint32(BaseLevel); level <= FollowersLevel; level++ {
		f.Add(encodeEntry(level, [][]byte{encodeTxn(&Txn{RequestID: "1"}, 0), {}}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		envelopes, err := decodeEntry(b)
		if err != nil {
			return
		}
		again, err := decodeEntry(encodeEntry(entryFormats().since[b[0]-1], envelopes))
		if err != nil || len(again) != len(envelopes) {
			t.Fatalf("%d envelopes became %d, %v", len(envelopes), len(again), err)
		}
		// The machine must take anything that passes the checksum, or refuse it.
		_, _, _ = newMachine(nil, KnownLevels()).apply(b)
	})
}

func FuzzDecodeOutcome(f *testing.F) {
	f.Add([]byte{})
	f.Add(appendOutcome(nil, &outcome{kind: outcomeApplied, index: 9, revision: 8, ops: 2, seq: 1}))
	f.Add(appendOutcome(nil, &outcome{kind: outcomeConflict, conflict: &ConflictError{Key: "/a", Want: 1, Current: &Record{Key: "/a"}}}))
	f.Add(appendOutcome(nil, &outcome{kind: outcomeRefused, constraint: &ConstraintError{Name: "n", Reason: "r"}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOutcome(b)
		if err != nil {
			return
		}
		_, _ = o.result()
	})
}

func FuzzReadSnapshot(f *testing.F) {
	m := newMachine(nil, KnownLevels())
	var buf bytes.Buffer
	s := &snapshot{tree: m.tree, index: 1, revision: 1}
	if err := s.write(&buf); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes())
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = readSnapshot(bytes.NewReader(b), nil, KnownLevels()) })
}
