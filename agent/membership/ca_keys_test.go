package membership

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// A person types the passphrase of a recovery bundle while the CA is replaced: the bundle has the
// key of the former CA, so it must not count, or nothing would give back the key that signs.
func TestABundleThatWasWrittenDuringARotation(t *testing.T) {
	t.Parallel()
	first, _ := replaceable(t)
	good := custodyOf(t, first).Bundle
	bundle, err := first.KeyringBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.AddRecipient(); err != nil {
		t.Fatal(err)
	}
	carryOut(t, caRotationBy(first, "one", time.Hour))
	late := requestOf(t, bundle)
	for _, has := range []string{late.CAPin, ""} { // a command of an earlier version does not say
		late.CAPin = has
		if err := first.KeyringBundleMade(t.Context(), late); !errors.Is(err, fault.Conflict) {
			t.Errorf("a bundle with the key of CA %q is noted as good: %v", has, err)
		}
	}
	custody, err := first.keyringKeeper().custody(t.Context(), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !custody.Recoverable(custody.CA) || custody.Bundle.Recipient != good.Recipient {
		t.Errorf("the bundle of before does not give back the key of the CA any more: %+v", custody.Bundle)
	}
}

// Between two steps of a rotation the key of the next CA is lost. That CA must never sign: the
// leader makes another one, and the operation goes on with it.
func TestNoCASignsWhoseKeyIsLost(t *testing.T) {
	t.Parallel()
	first, second := replaceable(t)
	steps := caRotationBy(first, "one", time.Hour)
	carryOut(t, steps[:3])
	rec, err := identity.ReadCARecord(t.Context(), first.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	lost, _ := rec.NextCA()
	before := custodyOf(t, first).CA
	if err := first.identity.DropCAKeysBut(before); err != nil {
		t.Fatal(err)
	}
	_ = steps[3].Do(t.Context(), func(int64, int64) {})
	if now := custodyOf(t, first).CA; now == lost {
		t.Fatal("a CA signs whose key no host holds")
	}
	eventually(t, func() error { return steps[3].Do(t.Context(), func(int64, int64) {}) })
	carryOut(t, steps[4:])
	if now := custodyOf(t, first).CA; now == lost || now == before || !first.identity.HoldsCAKey(now) {
		t.Errorf("after the rotation CA %s signs; before it was %s, and %s is lost", now, before, lost)
	}
	mustFollow(t, second, first.identity)
}

// Any host may carry out a rotation. One that does not vote asks the voters whether the recovery
// bundle gives back the next key: any host can write that it does.
func TestANoteOfAMemberMakesNoKeySafe(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	makeGoodBundle(t, first)
	stepUntil(t, first, withdrawKey)
	if err := identity.WantCA(t.Context(), first.store, "one"); err != nil {
		t.Fatal(err)
	}
	stepUntil(t, first, makeNext)
	rec, err := identity.ReadCARecord(t.Context(), first.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	next, _ := rec.NextCA()
	note := identity.BundlesRecord{Last: *custodyOf(t, first).Bundle}
	note.Last.CAPin = next.String()
	forged, err := json.Marshal(note)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.KeyBundles, Value: forged}}}); err != nil {
		t.Fatal(err)
	}
	sameCopy(t, first, second)
	ask := func() error {
		_, err := caRotation{Member: second, store: objects.FromRaft(second.store, nil)}.nextIsSafe(t.Context(), &rec)
		return err
	}
	if err := ask(); err == nil {
		t.Error("the next CA may be given: by a note that a member wrote, the recovery bundle gives back its key")
	}
	stepEscrow(t, first, putIntoEscrow)
	if err := ask(); err != nil {
		t.Errorf("the escrow has the key: %v", err)
	}
}

// The only voter leaves after the hosts were told to trust the next CA: the voter after it must
// have that key, too, before the one that leaves wipes its own.
func TestTheOnlyVoterLeavesDuringARotation(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	makeGoodBundle(t, first)
	stepUntil(t, first, withdrawKey)
	if err := identity.WantCA(t.Context(), first.store, "one"); err != nil {
		t.Fatal(err)
	}
	stepUntil(t, first, makeNext)
	stepEscrow(t, first, putIntoEscrow)
	rec, err := identity.ReadCARecord(t.Context(), first.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	next, _ := rec.NextCA()
	if err := identity.GiveCA(t.Context(), first.store, "one", next); err != nil {
		t.Fatal(err)
	}
	stepUntil(t, second, dropKey)
	stepEscrow(t, second, nothingToEscrow) // it has seen host1 vote, and so asks it for the note
	left := make(chan error, 1)
	go func() { left <- leave(t, first) }()
	stepUntil(t, second, fetchKey)
	stepEscrow(t, second, settleNote)
	select {
	case err := <-left:
		t.Fatalf("host1 left before host2 had the key of the next CA: %v", err)
	case <-time.After(3 * time.Second): // it looks every second
	}
	stepUntil(t, second, fetchNext)
	if err := <-left; err != nil {
		t.Fatal(err)
	}
	if !second.identity.HoldsCAKey(next) {
		t.Error("host1 has left, and nobody holds the key of the next CA, which the hosts trust")
	}
}
