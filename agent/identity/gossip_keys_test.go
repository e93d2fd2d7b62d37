package identity_test

import (
	"errors"
	"slices"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// Each stage of a replacement can be repeated, none can be left out, and a later replacement
// ends what an earlier one left.
func TestStagesOfAnotherGossipKey(t *testing.T) {
	mesh := identitytest.NewMesh(t)
	read := func(keys int, stage identity.GossipStage) identity.GossipRecord {
		t.Helper()
		rec, err := identity.ReadGossip(t.Context(), mesh.Store, raftstore.ReadOptions{})
		if err != nil || len(rec.Keys) != keys || rec.Stage != stage {
			t.Fatalf("%d keys, stage %q, %v; want %d, %q", len(rec.Keys), rec.Stage, err, keys, stage)
		}
		return rec
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old := read(1, "").Keys[0]
	if err := identity.UseGossipKey(t.Context(), mesh.Store, "one"); !errors.Is(err, fault.Conflict) {
		t.Errorf("a key is used that nobody has: %v", err)
	}
	for range 2 {
		do(identity.GiveGossipKey(t.Context(), mesh.Store, "one"))
	}
	given := read(2, identity.GossipKeyGiven)
	if !slices.Equal(given.Keys[0], old) || given.Generation != 1 {
		t.Errorf("the new key is used at once, generation %d", given.Generation)
	}
	if err := identity.ReplaceGossipKeys(t.Context(), mesh.Store, "one"); err == nil {
		t.Error("the old key is gone before the new one is used")
	}
	for range 2 {
		do(identity.UseGossipKey(t.Context(), mesh.Store, "one"))
	}
	if used := read(2, identity.GossipKeyUsed); !slices.Equal(used.Keys[0], given.Keys[1]) || !slices.Equal(used.Keys[1], old) {
		t.Error("the new key does not encrypt, or the old one is gone")
	}
	// The first replacement was cancelled here.
	do(identity.GiveGossipKey(t.Context(), mesh.Store, "two"))
	newest := read(3, identity.GossipKeyGiven).Keys[2]
	if err := identity.ReplaceGossipKeys(t.Context(), mesh.Store, "one"); !errors.Is(err, fault.Conflict) {
		t.Errorf("the replacement before goes on: %v", err)
	}
	do(identity.UseGossipKey(t.Context(), mesh.Store, "two"))
	for range 2 {
		do(identity.ReplaceGossipKeys(t.Context(), mesh.Store, "two"))
	}
	if last := read(1, identity.GossipKeyReplaced); !slices.Equal(last.Keys[0], newest) || last.Generation != 5 {
		t.Errorf("another key is left, generation %d", last.Generation)
	}
}
