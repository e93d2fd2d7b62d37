package identity_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// recoverable returns a bundle of a mesh with its recipient, and the note of it.
func recoverable(t *testing.T, first *identity.Identity) (identity.Bundle, identity.BundleMade) {
	t.Helper()
	bundle, err := first.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.AddRecipient(); err != nil {
		t.Fatal(err)
	}
	recipient, err := bundle.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	pin, _ := first.HeldCA()
	return bundle, identity.BundleMade{CAPin: pin.String(), Made: bundle.Made, Host: "host1", SecretKeys: first.SecretKeyIDs(), Recipient: recipient, Number: 1}
}

func newSecretKey(t *testing.T, of *identity.Identity) sealed.PrivateKey {
	t.Helper()
	key, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := of.KeepSecretKeys(key); err != nil {
		t.Fatal(err)
	}
	return key
}

// A bundle opens an escrow that was made after it, and only that of its own recipient; what it
// opens with is in the sealed bundle and comes back from it.
func TestABundleOpensItsEscrow(t *testing.T) {
	m := identitytest.NewMesh(t)
	bundle, note := recoverable(t, m.First)
	text, err := bundle.Seal(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	other, _ := recoverable(t, m.First)
	key := newSecretKey(t, m.First)
	escrow, err := m.First.SealEscrow(note.Recipient, identity.Holds{CAPins: []string{note.CAPin}, SecretKeyIDs: []string{key.ID()}})
	if err != nil {
		t.Fatal(err)
	}
	if secret, err := key.Bytes(); err != nil || bytes.Contains(escrow.Sealed, secret) {
		t.Errorf("the escrow shows a key, %v", err)
	}
	opened, err := identity.OpenBundle(bytes.NewReader(text), passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if opened, err = opened.WithEscrow(escrow); err != nil {
		t.Fatal(err)
	}
	host := m.Host(t, "host2", 0)
	if err := host.TakeBundle(opened); err != nil {
		t.Fatal(err)
	}
	if ids := open(t, host.Dir()).SecretKeyIDs(); !slices.Contains(ids, key.ID()) {
		t.Errorf("host2 has the keys %q", ids)
	}
	if other, err = other.WithEscrow(escrow); err != nil || slices.Contains(must(other.SecretKeyIDs()), key.ID()) {
		t.Errorf("another bundle opens the escrow: %v", err)
	}
	escrow.Sealed = append(slices.Clone(escrow.Sealed), 0)
	if _, err := bundle.WithEscrow(escrow); err == nil || strings.Contains(err.Error(), bundle.Recovery) {
		t.Errorf("an escrow that was changed: %v", err)
	}
	if _, err := m.First.SealEscrow(note.Recipient, identity.Holds{SecretKeyIDs: []string{"another"}}); err == nil {
		t.Error("an escrow of a key that the host does not hold")
	}
	if _, err := m.First.SealEscrow("nobody", identity.Holds{CAPins: []string{note.CAPin}}); err == nil {
		t.Error("an escrow for nobody")
	}
}

func must[V any](v V, err error) V {
	if err != nil {
		panic(err)
	}
	return v
}

// What a host writes that holds no key of the CA, a voter does not take for an escrow, nor the
// note of a bundle that no keyring knows.
func TestAVoterJudgesTheEscrow(t *testing.T) {
	m := identitytest.NewMesh(t)
	ctx := t.Context()
	_, note := recoverable(t, m.First)
	key := newSecretKey(t, m.First)
	if err := m.First.KnowBundle(note); err != nil {
		t.Fatal(err)
	}
	escrow, err := m.First.SealEscrow(note.Recipient, identity.Holds{CAPins: []string{note.CAPin}, SecretKeyIDs: []string{key.ID()}})
	if err != nil {
		t.Fatal(err)
	}
	judge := func(escrow identity.EscrowRecord) identity.Custody {
		t.Helper()
		_, stored, err := identity.ReadEscrow(ctx, m.Store, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := identity.StoreEscrow(ctx, m.Store, stored, escrow); err != nil {
			t.Fatal(err)
		}
		custody, err := identity.ReadCustody(ctx, m.Store, raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return open(t, m.First.Dir()).Judge(custody)
	}
	if custody := judge(escrow); !custody.Recoverable(m.CA.Pin()) || !custody.RecoversSecretKeys([]string{key.ID()}) || custody.RecoversSecretKeys([]string{key.ID(), "another"}) {
		t.Errorf("a good escrow: %+v", custody)
	}
	for name, change := range map[string]func(*identity.EscrowRecord){
		"says that it holds more": func(e *identity.EscrowRecord) { e.Holds.SecretKeyIDs = append(e.Holds.SecretKeyIDs, "another") },
		"other content":           func(e *identity.EscrowRecord) { e.Sealed = []byte("nothing") },
		"without a voucher":       func(e *identity.EscrowRecord) { e.Vouchers = nil },
	} {
		forged := escrow
		forged.Holds.SecretKeyIDs = slices.Clone(escrow.Holds.SecretKeyIDs)
		change(&forged)
		if custody := judge(forged); custody.Escrow != nil || custody.RecoversSecretKeys([]string{key.ID()}) {
			t.Errorf("%s: taken", name)
		}
	}
	_, stranger := recoverable(t, m.First)
	stranger.Number = 2
	if err := identity.RecordBundle(ctx, m.Store, stranger); err != nil {
		t.Fatal(err)
	}
	if custody := judge(escrow); custody.Bundle.Recipient != note.Recipient {
		t.Error("the voter takes a note that its keyring does not know")
	}
	if err := m.First.ForgetBundle(); err != nil {
		t.Fatal(err)
	}
	if custody := judge(escrow); custody.Bundle != nil || custody.Recoverable(m.CA.Pin()) {
		t.Error("a host whose keyring knows no bundle takes one from the state")
	}
}
