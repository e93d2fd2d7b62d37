package claims

import (
	"testing"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// recovered writes what a recovery of the mesh writes first.
func recovered(t *testing.T, s *objectstest.Store, began uint64, hosts ...string) {
	t.Helper()
	list, err := s.List(t.Context(), raftstore.ListRequest{Prefix: Prefix})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Commit(t.Context(), raftstore.Txn{RequestID: "recovery of " + hosts[0], Ops: BeginTimeline(state(list.Records), began, hosts)}); err != nil {
		t.Fatal(err)
	}
}

// state is a View of records below one prefix.
type state []raftstore.Record

func (s state) Get(key string) (raftstore.Record, bool) {
	for _, rec := range s {
		if rec.Key == key {
			return rec, true
		}
	}
	return raftstore.Record{}, false
}

func (s state) Ascend(prefix string, fn func(raftstore.Record) bool) {
	for _, rec := range s {
		if len(rec.Key) >= len(prefix) && rec.Key[:len(prefix)] == prefix && !fn(rec) {
			return
		}
	}
}

// TestRecoveryRaisesAllEpochs: the lost part of a mesh may have given out epochs that the
// recovered copy knows nothing of. Every later one is above them, for known and for new
// names, and by the store and the cache alike.
func TestRecoveryRaisesAllEpochs(t *testing.T) {
	const began = 1 << 50
	s := mesh(t, "h1", "h2")
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("known", "h1", 1), epoch(t, s, "known")) })
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("moving", "h1", 1), epoch(t, s, "moving")) })
	must(t, s, func(tx *objects.Tx) { Release(tx, read(t, s, "known-uid")) })
	recovered(t, s, began, "h1", "h2")
	if in := read(t, s, "moving-uid"); in.Epoch != 1 {
		t.Errorf("the epoch of a claim changed to %d: its guest would be stopped", in.Epoch)
	}
	next := inst("known", "h2", 1)
	next.UID = "next"
	must(t, s, func(tx *objects.Tx) { Place(tx, next, epoch(t, s, "known")) })
	must(t, s, func(tx *objects.Tx) { Place(tx, inst("new", "h2", 1), epoch(t, s, "new")) })
	must(t, s, func(tx *objects.Tx) { Switch(tx, reserved(t, s, "moving-uid", "h2")) })
	for uid, in := range map[string]Instance{"known": read(t, s, "next"), "new": read(t, s, "new-uid"), "moving": read(t, s, "moving-uid")} {
		if in.Epoch <= began {
			t.Errorf("%s got epoch %d, which the lost part may have given out", uid, in.Epoch)
		}
	}
}

func reserved(t *testing.T, s *objectstest.Store, uid, target string) Instance {
	t.Helper()
	must(t, s, func(tx *objects.Tx) { Reserve(tx, read(t, s, "moving-uid"), target, epoch(t, s, "moving")) })
	return read(t, s, "moving-uid")
}

// TestQuarantineOfASecondRecovery: it is about the hosts that the second copy records,
// and about what existed then.
func TestQuarantineOfASecondRecovery(t *testing.T) {
	s := mesh(t, "h1")
	recovered(t, s, 100, "gone", "h1")
	recovered(t, s, 200, "h1", "h2")
	list, err := ListQuarantine(t.Context(), s, raftstore.ReadOptions{})
	if err != nil || len(list) != 2 || list[0].Host != "h1" || list[1].Host != "h2" || list[0].Began != 200 || list[1].Began != 200 {
		t.Errorf("in quarantine: %+v, %v", list, err)
	}
	must(t, s, func(tx *objects.Tx) { EndQuarantine(tx, list[0]) })
	if try(s, func(tx *objects.Tx) { EndQuarantine(tx, list[0]) }) == nil {
		t.Error("left quarantine twice")
	}
}
