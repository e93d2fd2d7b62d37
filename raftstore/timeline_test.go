package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// timeline is a group as its clients saw it: every revision that it gave out, and the
// records that it showed.
type timeline struct {
	m     *machine
	ref   *model
	h     *history
	group incarnation
	revs  map[uint64]bool
	shown map[Condition]bool
}

func (l *timeline) see() {
	l.revs[l.m.revision] = true
	for _, r := range l.ref.records {
		l.revs[r.ModRevision] = true
		l.shown[Condition{r.Key, r.ModRevision}] = true
	}
}

// write commits random txns, as long as the group lives.
func (l *timeline) write(t *rapid.T, name string) {
	for i := range rapid.IntRange(0, 8).Draw(t, name) {
		txn := drawTxn(t, l.ref, fmt.Sprint(name, i))
		_, changes, err := applyTxns(l.m, txn)
		if err != nil {
			t.Fatal(err)
		}
		l.ref.apply(txn)
		l.h.publish(l.m, changes)
		l.see()
	}
	if !sameRecords(treeRecords(l.m.tree), l.ref.records) {
		t.Fatalf("%s holds %v, want %v", name, treeRecords(l.m.tree), l.ref.records)
	}
}

// continueFrom begins a timeline from a copy of l. The clock of its host may be wrong.
func (l *timeline) continueFrom(t *rapid.T, knows incarnation) *timeline {
	next := &timeline{
		m: snapshotAndRestore(t, l.m), h: newHistory(DefaultConfig().Limits),
		ref: &model{records: map[string]Record{}}, revs: map[uint64]bool{}, shown: map[Condition]bool{},
	}
	next.group = newIncarnation(knows)
	founded := Op{Key: "/founded", Value: []byte("v")}
	var at uint64
	err := next.m.beginTimeline(next.group, func(v View, revision uint64) ([]Op, error) {
		for key := range l.ref.records {
			if r, ok := v.Get(key); !ok || r.ModRevision != revision {
				t.Fatalf("the founder of a group at %d sees %+v", revision, r)
			}
		}
		at = revision
		return []Op{founded}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, r := range l.ref.records {
		r.ModRevision = at
		next.ref.records[key] = r
	}
	next.ref.revision = at
	next.ref.apply(Txn{Ops: []Op{founded}})
	next.h.reset(next.m)
	next.see()
	return next
}

// TestTimelineNeverRewinds: groups continue from copies of each other, at random moments
// and by clocks that may be wrong, while the groups that they replace go on. What a
// client saw in a group that was replaced is never valid in the group that replaced it.
func TestTimelineNeverRewinds(t *testing.T) {
	rapid.Check(t, func(drawn *rapid.T) {
		synctest.Test(t, func(*testing.T) { drawTimelines(drawn) })
	})
}

func drawTimelines(t *rapid.T) {
	first := &timeline{
		m: testMachine(t), h: newHistory(DefaultConfig().Limits),
		ref: &model{records: map[string]Record{}, revision: firstRevision}, revs: map[uint64]bool{}, shown: map[Condition]bool{},
	}
	if rapid.Bool().Draw(t, "the clock is behind") {
		ahead := uint64(time.Now().Add(24 * time.Hour).UnixNano())
		binary.BigEndian.PutUint64(first.group[:], ahead)
	}
	first.write(t, "prefix")
	lines := []*timeline{first}
	for i := range rapid.IntRange(1, 3).Draw(t, "recoveries") {
		time.Sleep(time.Millisecond)
		from := rapid.SampledFrom(lines).Draw(t, "copy")
		// The disk of the copy has heard of the newest group, as after a refusal.
		lines = append(lines, from.continueFrom(t, lines[len(lines)-1].group))
		for j, l := range lines {
			l.write(t, fmt.Sprintf("round %d of group %d: ", i, j))
		}
	}
	for i, lost := range lines {
		for _, present := range lines[i+1:] {
			checkNothingHolds(t, lost, present)
		}
	}
}

// checkNothingHolds checks that no revision of a lost timeline means anything in the
// present one.
func checkNothingHolds(t *rapid.T, lost, present *timeline) {
	for rev := range lost.revs {
		if present.revs[rev] {
			t.Fatalf("revision %d was given out twice", rev)
		}
		if _, err := present.h.asOf("/", rev); !errors.Is(err, ErrCompacted) {
			t.Fatalf("list at %d of before: %v", rev, err)
		}
		if _, err := present.h.addWatcher(WatchRequest{Prefix: "/", Revision: rev}); !errors.Is(err, ErrCompacted) {
			t.Fatalf("watch from %d of before: %v", rev, err)
		}
	}
	for c := range lost.shown {
		txn := Txn{RequestID: fmt.Sprint("late ", c, present.m.requests.seq), If: []Condition{c}, Ops: []Op{{Key: c.Key, Delete: true}}}
		out, _, err := applyTxns(present.m, txn)
		if err != nil || out[0].kind != outcomeConflict {
			t.Fatalf("a write on condition of %+v, read before: %+v, %v", c, out, err)
		}
	}
}

// TestRevisionsStayExact: revisions pass through JSON, and metrics, as floating-point
// numbers. They stay exact for a century.
func TestRevisionsStayExact(t *testing.T) {
	var i incarnation
	at := time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)
	binary.BigEndian.PutUint64(i[:], uint64(at.UnixNano()))
	if got := i.timelineStart(firstRevision); got >= 1<<53 || got != uint64(at.UnixMicro()) {
		t.Errorf("a group that begins in %v starts at %d", at, got)
	}
	if got := i.timelineStart(math.MaxUint64 / 2); got <= math.MaxUint64/2 {
		t.Errorf("a copy ahead of the clock goes back to %d", got)
	}
}
