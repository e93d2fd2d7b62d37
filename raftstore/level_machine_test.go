package raftstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// raiseTxn is a txn that writes the record of the feature level.
func raiseTxn(id string, op Op) Txn {
	op.Key = levelKey
	return Txn{RequestID: id, Ops: []Op{{Key: "/k", Value: []byte(id)}, op}}
}

// TestLevelOnlyRises: the machine refuses everything but a higher level, and says so again
// to a retry.
func TestLevelOnlyRises(t *testing.T) {
	m := newMachine(nil, LevelRange{1, 5})
	apply := func(txn Txn) outcome {
		t.Helper()
		out, _, err := m.apply(encodeEntry(BaseLevel, [][]byte{encodeTxn(&txn, m.requests.seq)}))
		if err != nil {
			t.Fatal(err)
		}
		return out[0]
	}
	level := func(n uint32) Op { return Op{Value: groupLevel{n, "v"}.encode()} }
	for i, tc := range []struct {
		op   Op
		want uint32 // 0: refused
	}{
		{level(1), 0}, {Op{Delete: true}, 0}, {level(2), 2}, {level(2), 0}, {level(1), 0}, {Op{Delete: true}, 0},
		{Op{Value: nil}, 0}, {Op{Value: []byte("x")}, 0}, {Op{Value: []byte("-3")}, 0}, {Op{Value: []byte(strings.Repeat("9", 2000))}, 0},
		{Op{Value: []byte("3 v and what a later version adds")}, 3}, {level(5), 5},
	} {
		before, revision := levelNow(t, m), m.revision
		txn := raiseTxn(fmt.Sprint(i), tc.op)
		for range 2 { // the second one is a retry
			out := apply(txn)
			switch got := levelNow(t, m); {
			case tc.want != 0 && (out.kind != outcomeApplied || got != tc.want):
				t.Errorf("txn %d: %+v, level %d, want %d", i, out, got, tc.want)
			case tc.want == 0 && (out.kind != outcomeRefused || got != before || m.revision != revision || out.constraint.Name != levelConstraint):
				t.Errorf("txn %d: %+v, level %d, was %d", i, out, got, before)
			}
		}
	}
}

func levelNow(t *testing.T, m *machine) uint32 {
	t.Helper()
	l, err := levelOf(m.tree)
	if err != nil {
		t.Fatal(err)
	}
	return l.level
}

// TestLevelBeyondVersion: a replica stops before it applies an entry that raises the level
// beyond what its version knows.
func TestLevelBeyondVersion(t *testing.T) {
	m := newMachine(nil, LevelRange{1, 2})
	first, raise := Txn{RequestID: "1", Ops: []Op{{Key: "/k"}}}, raiseTxn("2", Op{Value: groupLevel{3, "v3"}.encode()})
	_, _, err := m.apply(encodeEntry(BaseLevel, [][]byte{encodeTxn(&first, 0), encodeTxn(&raise, 0)}))
	if !errors.Is(err, ErrFeatureLevel) || !strings.Contains(err.Error(), `install version "v3" or newer`) {
		t.Errorf("applied: %v", err)
	}
	if m.revision != firstRevision || m.requests.seq != 0 || m.digest != (digest{}) {
		t.Error("half of the entry was applied")
	}
}
