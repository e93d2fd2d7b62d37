package membership

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// changeCA changes the record of the CA.
func changeCA(t *testing.T, m *Member, change func(*identity.CARecord)) {
	t.Helper()
	stored, _, err := m.store.Get(t.Context(), identity.KeyCA, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var rec identity.CARecord
	if err := json.Unmarshal(stored.Value, &rec); err != nil {
		t.Fatal(err)
	}
	change(&rec)
	rec.Generation++
	value, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.KeyCA, Value: value}}}); err != nil {
		t.Fatal(err)
	}
}

// replaceCA replaces the CA of a mesh at once, as far as its keys, the trust of the hosts and
// their certificates go. Only the leader votes.
func replaceCA(t *testing.T, leader *Member, others ...*Member) {
	t.Helper()
	next, err := identity.NewCA(leader.identity.MeshID())
	if err != nil {
		t.Fatal(err)
	}
	key, err := next.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := leader.identity.KeepCAKey(key); err != nil {
		t.Fatal(err)
	}
	changeCA(t, leader, func(rec *identity.CARecord) { rec.Next = next.CertificatePEM() })
	stepEscrow(t, leader, putIntoEscrow)
	if custody, err := leader.keyringKeeper().custody(t.Context(), raftstore.ReadOptions{}); err != nil || !custody.Recoverable(next.Pin()) {
		t.Fatalf("the next CA cannot be recovered: %v", err)
	}
	changeCA(t, leader, func(rec *identity.CARecord) {
		rec.Certificate, rec.Next, rec.Bundle = next.CertificatePEM(), nil, bytes.Join([][]byte{next.CertificatePEM(), rec.Bundle}, nil)
	})
	for _, m := range append(others, leader) {
		id := m.identity
		if _, err := id.KeepTrust(bytes.Join([][]byte{next.CertificatePEM(), id.CABundle()}, nil), 0); err != nil {
			t.Fatal(err)
		}
		own := id.Certificate().PrivateKey.(*ecdsa.PrivateKey)
		chain, err := next.IssueNode(&own.PublicKey, id.Node(), identity.NodeSANs(id.Info().MeshAddress, nil), identity.DefaultNodeLifetime)
		if err != nil {
			t.Fatal(err)
		}
		if err := id.Install(own, identity.Issued{Chain: chain, CABundle: next.CertificatePEM()}); err != nil {
			t.Fatal(err)
		}
	}
	changeCA(t, leader, func(rec *identity.CARecord) { rec.Bundle = rec.Certificate })
	for _, m := range append(others, leader) {
		sameCopy(t, leader, m)
		if _, err := m.identity.KeepTrust(next.CertificatePEM(), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := leader.identity.DropCAKeysBut(next.Pin()); err != nil {
		t.Fatal(err)
	}
}

// admitsOthers starts the only host of a recovered mesh, reads a Secret, and has a machine join.
func admitsOthers(t *testing.T, config Config) {
	t.Helper()
	alone := boot(t, config)
	if err := alone.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, alone.store)
	mustReadSecret(t, alone, "a", "the password of a")
	path, machine := newMachine(t, "host3")
	invite(t, alone, path, machine)
	stepEscrow(t, alone, nothingToEscrow)
}

// rotatedTwice is a mesh whose CA and key for Secrets were replaced twice since its bundle was
// made. It returns a backup from before, too. Both hosts are off.
func rotatedTwice(t *testing.T) (first, second *Member, bundle identity.Bundle, before, after []byte) {
	t.Helper()
	first, second, bundle = escrowing(t)
	stepUntil(t, first, withdrawKey)
	sameCopy(t, first, second)
	stepUntil(t, second, dropKey)
	putSecret(t, first, "a", "the password of a")
	before, _ = backUp(t, second, false)
	for range 2 {
		replaceCA(t, first, second)
		rotateSecretKey(t, first)
	}
	after, _ = backUp(t, second, false)
	sameCopy(t, first, second)
	shutdown(first)
	shutdown(second)
	return first, second, bundle, before, after
}

// All voters are lost. The copy of a host that did not vote and the bundle from before two
// rotations are enough to go on.
func TestRecoverWithABundleFromBeforeRotations(t *testing.T) {
	t.Parallel()
	_, second, bundle, _, _ := rotatedTwice(t)
	without := bundle
	without.Recovery = ""
	for name, how := range map[string]Recovery{"no bundle": {}, "a bundle that opens no escrow": {Bundle: &without}} {
		if _, err := Recover(t.Context(), second.config, how); err == nil {
			t.Fatalf("%s: recovered without the keys", name)
		}
	}
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	admitsOthers(t, second.config)
}

// No copy is left. A backup from after the rotations is opened by the bundle from before them,
// and has the keys in it; the key that the CA had before opens nothing of it.
func TestRestoreWithABundleFromBeforeRotations(t *testing.T) {
	t.Parallel()
	_, second, bundle, _, after := rotatedTwice(t)
	if _, err := identity.OpenBackup(bytes.NewReader(after), nil, bundle.CAKey); !errors.Is(err, identity.ErrBackupSealed) {
		t.Errorf("the key of the former CA opens the backup: %v", err)
	}
	loseCopy(t, second)
	if _, err := Restore(t.Context(), second.config, bytes.NewReader(after), Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	admitsOthers(t, second.config)
}

// A backup from before the rotations, and a host of after them: without the key of the present
// CA the mesh goes back to the one of then, and lives.
func TestRestoreABackupFromBeforeRotations(t *testing.T) {
	t.Parallel()
	_, second, bundle, before, _ := rotatedTwice(t)
	loseCopy(t, second)
	if _, err := Restore(t.Context(), second.config, bytes.NewReader(before), Recovery{}); !errors.Is(err, fault.Conflict) {
		t.Fatalf("restored without the bundle: %v", err)
	}
	if _, err := Restore(t.Context(), second.config, bytes.NewReader(before), Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	admitsOthers(t, second.config)
}

// The same on a host that voted last, which has the key of the present CA: the mesh keeps that CA,
// so the one that was replaced does not come back, and the other hosts know who speaks to them.
func TestARestoreBringsNoFormerCABack(t *testing.T) {
	t.Parallel()
	first, second, bundle, before, _ := rotatedTwice(t)
	loseCopy(t, first)
	loseCopy(t, second)
	present, _ := first.identity.HeldCA()
	if _, err := Restore(t.Context(), first.config, bytes.NewReader(before), Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	back := boot(t, first.config)
	if err := back.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, back.store)
	if custody := custodyOf(t, back); custody.CA != present || custody.InState() {
		t.Errorf("the CA %s signs, want %s", custody.CA, present)
	}
	mustReadSecret(t, back, "a", "the password of a")
	if err := boot(t, second.config).joinStore(t.Context()); err != nil {
		t.Errorf("the other host does not come back: %v", err)
	}
}
