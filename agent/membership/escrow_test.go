package membership

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestPlanEscrow(t *testing.T) {
	t.Parallel()
	now := level.Succession
	for name, c := range map[string]struct {
		view escrowView
		want escrowAct
	}{
		"an older mesh":                       {escrowView{level: now - 1, voter: true, leader: true, known: true, recipient: true}, nothingToEscrow},
		"a bundle that gives back all":        {escrowView{level: now, voter: true, leader: true, known: true, recipient: true, same: true, covered: true, complete: true}, nothingToEscrow},
		"a new key":                           {escrowView{level: now, voter: true, leader: true, known: true, recipient: true, same: true, complete: true}, putIntoEscrow},
		"a new key, seen by another voter":    {escrowView{level: now, voter: true, known: true, recipient: true, same: true, complete: true}, nothingToEscrow},
		"a new key that the leader lacks":     {escrowView{level: now, voter: true, leader: true, known: true, recipient: true, same: true}, nothingToEscrow},
		"a new key, and a bundle of before":   {escrowView{level: now, voter: true, leader: true, known: true, same: true, complete: true}, nothingToEscrow},
		"no bundle":                           {escrowView{level: now, voter: true, leader: true, same: true, complete: true}, nothingToEscrow},
		"a bundle that this voter knows not":  {escrowView{level: now, voter: true, complete: true}, settleNote},
		"another bundle than this one knows":  {escrowView{level: now, voter: true, leader: true, known: true, recipient: true, complete: true}, settleNote},
		"a host that does not vote":           {escrowView{level: now}, nothingToEscrow},
		"a host that does not vote any more":  {escrowView{level: now, known: true, recipient: true, same: true}, forgetNote},
		"the same in an older mesh":           {escrowView{level: now - 1, known: true, recipient: true, same: true}, nothingToEscrow},
		"a host that does not vote, no match": {escrowView{level: now, leader: false}, nothingToEscrow},
	} {
		if got := planEscrow(c.view); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// stepEscrow lets a host look after the escrow until it has made a move.
func stepEscrow(t *testing.T, m *Member, want escrowAct) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if act, err := m.escrowKeeper().step(t.Context()); act != want || err != nil {
			return fmt.Errorf("%s: %s, %v; want %s", m.config.Name, act, err, want)
		}
		return nil
	})
}

// makeGoodBundle makes a recovery bundle on a voter as the command does, with a recipient.
func makeGoodBundle(t *testing.T, m *Member) identity.Bundle {
	t.Helper()
	bundle, err := m.KeyringBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.AddRecipient(); err != nil {
		t.Fatal(err)
	}
	if err := m.KeyringBundleMade(t.Context(), requestOf(t, bundle)); err != nil {
		t.Fatal(err)
	}
	return bundle
}

// requestOf returns what the command says of a recovery bundle that it has written.
func requestOf(t *testing.T, bundle identity.Bundle) admin.KeyringBundleRequest {
	t.Helper()
	ids, idsErr := bundle.SecretKeyIDs()
	recipient, err := bundle.Recipient()
	ca, caErr := bundle.CAPin()
	if err := errors.Join(err, idsErr, caErr); err != nil {
		t.Fatal(err)
	}
	return admin.KeyringBundleRequest{Made: bundle.Made, CAPin: ca.String(), SecretKeys: ids, Recipient: recipient}
}

// escrowing is pair with a recovery bundle that has a recipient, and a key that encrypts.
func escrowing(t *testing.T) (first, second *Member, bundle identity.Bundle) {
	t.Helper()
	first, second = pair(t)
	stepSecrets(t, first, makeSecretKey)
	bundle = makeGoodBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	stepSecrets(t, first, sealObjects)
	stepEscrow(t, first, nothingToEscrow)
	sameCopy(t, first, second)
	return first, second, bundle
}

// rotateSecretKey replaces the key for Secrets as the mesh does by itself.
func rotateSecretKey(t *testing.T, leader *Member) {
	t.Helper()
	if err := leader.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, leader, makeSecretKey)
	if act, err := leader.secretsKeeper().step(t.Context()); act == useSecretKey || err != nil {
		t.Errorf("before the key is in escrow: %s, %v", act, err)
	}
	stepEscrow(t, leader, putIntoEscrow)
	stepEscrow(t, leader, nothingToEscrow)
	stepSecrets(t, leader, useSecretKey)
	stepSecrets(t, leader, sealObjects)
}

// A bundle stays good while the key for Secrets is replaced, any number of times: a new key is
// in escrow before it encrypts, and a follower's copy and the bundle give everything back.
func TestABundleOutlivesRotations(t *testing.T) {
	t.Parallel()
	first, second, bundle := escrowing(t)
	putSecret(t, first, "a", "the password of a")
	for range 3 {
		rotateSecretKey(t, first)
	}
	if status, err := first.keyringStatus(t.Context()); err != nil || !status.Bundle.Current || !status.Bundle.StaysGood || status.SecretKeyWaits {
		t.Errorf("status %+v, %v", status.Bundle, err)
	}
	if secrets, err := bundle.SecretKeyIDs(); err != nil || len(secrets) != 1 {
		t.Errorf("the bundle itself has the keys %q, %v", secrets, err)
	}
	sameCopy(t, first, second)
	shutdown(first)
	shutdown(second)
	if _, err := Recover(t.Context(), second.config, Recovery{}); !errors.Is(err, fault.Conflict) {
		t.Fatalf("recovered without the keys: %v", err)
	}
	without := bundle
	without.Recovery = ""
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &without}); !errors.Is(err, fault.Conflict) || !strings.Contains(fault.Of(err).Remedy, "--keyring-bundle") {
		t.Fatalf("recovered with a bundle that does not open the escrow: %v", err)
	}
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	alone := boot(t, second.config)
	if err := alone.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, alone.store)
	mustReadSecret(t, alone, "a", "the password of a")
	stepEscrow(t, alone, nothingToEscrow)
	rotateSecretKey(t, alone) // the bundle is as good for the recovered mesh
}

// A member that writes itself into the note of the bundle gets no key: the voters go by what
// their keyrings know, and put the note right.
func TestAForgedRecipientGetsNothing(t *testing.T) {
	t.Parallel()
	first, second, bundle := escrowing(t)
	thief := bundle
	if err := thief.AddRecipient(); err != nil {
		t.Fatal(err)
	}
	recipient, err := thief.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	forged := *custodyOf(t, second).Bundle
	forged.Recipient, forged.Number = recipient, forged.Number+1
	if err := identity.RecordBundle(t.Context(), second.store, forged); err != nil {
		t.Fatal(err)
	}
	sameCopy(t, second, first)
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	stepEscrow(t, first, settleNote)
	stepEscrow(t, first, putIntoEscrow)
	custody := custodyOf(t, first)
	if custody.Bundle.Recipient == recipient || custody.Escrow.Recipient == recipient {
		t.Error("the keyring is in escrow for who wrote the note")
	}
	if opened, err := thief.WithEscrow(*custody.Escrow); err != nil || len(opened.SecretKeys) != len(thief.SecretKeys) {
		t.Errorf("the thief has %d keys, %v", len(opened.SecretKeys), err)
	}
}

// Where no bundle was made, the note of one that a member has written counts for nothing: no key
// is used and no backup is encrypted because of it, and operators are told to make a bundle.
func TestANoteOfNoBundle(t *testing.T) {
	t.Parallel()
	first, second := pair(t)
	stepSecrets(t, first, makeSecretKey)
	thief := identity.BundleMade{CAPin: custodyOf(t, first).CA.String(), Host: "host1", SecretKeys: first.identity.SecretKeyIDs(), Number: 1}
	bundle, err := first.KeyringBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.AddRecipient(); err != nil {
		t.Fatal(err)
	}
	if thief.Recipient, err = bundle.Recipient(); err != nil {
		t.Fatal(err)
	}
	if err := identity.RecordBundle(t.Context(), second.store, thief); err != nil {
		t.Fatal(err)
	}
	sameCopy(t, second, first)
	for _, m := range []*Member{first, second} {
		if content, _, err := m.PrepareBackup(t.Context(), false); !errors.Is(err, fault.Unavailable) || content.Encrypted {
			t.Errorf("%s makes a backup: %+v, %v", m.config.Name, content, err)
		}
	}
	stepSecrets(t, first, nothingToSeal)
	if act, err := first.keyringKeeper().step(t.Context()); act != nothingToMove || err != nil {
		t.Errorf("%s, %v", act, err)
	}
	if act, err := first.escrowKeeper().step(t.Context()); act != settleNote || err == nil || !strings.Contains(err.Error(), "virtmesh keyring bundle") {
		t.Errorf("%s, %v", act, err)
	}
	if custody := custodyOf(t, first); custody.Escrow != nil || !custody.InState() {
		t.Errorf("the key left the state, or there is an escrow: %+v", custody.Escrow)
	}
	if status, err := first.keyringStatus(t.Context()); err != nil || status.Bundle != nil {
		t.Errorf("the voter shows the bundle %+v, %v", status.Bundle, err)
	}
	makeGoodBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	sameCopy(t, first, second)
	if content, _, err := second.PrepareBackup(t.Context(), false); err != nil || !content.Encrypted {
		t.Errorf("with a bundle: %+v, %v", content, err)
	}
}

// A voter that deletes the escrow, or puts back an older one, as any host can below level.Access,
// delays the use of a new key, and the leader sets it right.
func TestAnEscrowThatWasPutBack(t *testing.T) {
	t.Parallel()
	first, _, _ := escrowing(t)
	rotateSecretKey(t, first)
	older := custodyOf(t, first).Escrow
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	stepEscrow(t, first, putIntoEscrow)
	_, stored, err := identity.ReadEscrow(t.Context(), first.store, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := identity.StoreEscrow(t.Context(), first.store, stored, *older); err != nil {
		t.Fatal(err)
	}
	keeper := first.secretsKeeper()
	keys, record, err := identity.ReadSecretKeys(t.Context(), first.store, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.use(t.Context(), keys, record); err == nil || !strings.Contains(err.Error(), "no recovery bundle") {
		t.Errorf("a key is used that is not in escrow any more: %v", err)
	}
	stepEscrow(t, first, putIntoEscrow)
	stepSecrets(t, first, useSecretKey)
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.KeyEscrow, Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	stepEscrow(t, first, putIntoEscrow)
}

// A mesh that is raised with a bundle of an earlier version goes on as before: the bundle counts
// for what is in it, and a further key waits for another one, which then stays good.
func TestABundleWithoutRecipient(t *testing.T) {
	t.Parallel()
	first, _ := pair(t)
	stepSecrets(t, first, makeSecretKey)
	makeBundle(t, first)
	if err := first.identity.ForgetBundle(); err != nil { // the version of before kept no note
		t.Fatal(err)
	}
	note := *custodyOf(t, first).Bundle
	note.Number = 0
	if err := identity.RecordBundle(t.Context(), first.store, note); err != nil {
		t.Fatal(err)
	}
	stepEscrow(t, first, settleNote)
	stepEscrow(t, first, nothingToEscrow)
	stepSecrets(t, first, useSecretKey)
	stepSecrets(t, first, sealObjects)
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	stepEscrow(t, first, nothingToEscrow)
	stepSecrets(t, first, nothingToSeal)
	if status, err := first.keyringStatus(t.Context()); err != nil || !status.SecretKeyWaits || status.Bundle.StaysGood || !status.Bundle.Current {
		t.Errorf("status %+v, bundle %+v, %v", status, status.Bundle, err)
	}
	makeGoodBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	stepSecrets(t, first, sealObjects)
	rotateSecretKey(t, first)
}
