package identity_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

const passphrase = "correct horse battery staple"

// A recovery bundle gives the key back to a host of its mesh, to nobody without the
// passphrase, and shows nothing of the key.
func TestBundle(t *testing.T) {
	m := identitytest.NewMesh(t)
	bundle, err := m.First.Bundle()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := bundle.Seal(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(sealed, []byte("-----BEGIN AGE ENCRYPTED FILE-----\n")) || bytes.Contains(sealed, bundle.CAKey) {
		t.Errorf("sealed: %s", sealed)
	}
	if _, err := identity.OpenBundle(bytes.NewReader(sealed), "correct horse battery"); !errors.Is(err, identity.ErrPassphrase) {
		t.Errorf("another passphrase: %v", err)
	}
	for name, text := range map[string]string{"empty": "", "text": "hello", "cut": string(sealed[:len(sealed)/2])} {
		if _, err := identity.OpenBundle(strings.NewReader(text), passphrase); err == nil || errors.Is(err, identity.ErrPassphrase) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := identity.OpenBundle(bytes.NewReader(sealed), passphrase)
	if err != nil || got.MeshID != m.First.MeshID() || !bytes.Equal(got.CAKey, bundle.CAKey) {
		t.Fatalf("opened %+v, %v", got.MeshID, err)
	}
	host := m.Host(t, "host2", 0)
	if _, err := host.Bundle(); !errors.Is(err, identity.ErrNoCAKey) {
		t.Errorf("a bundle of a host without the key: %v", err)
	}
	if err := host.TakeBundle(got); err != nil {
		t.Fatal(err)
	}
	if pin, ok := open(t, host.Dir()).HeldCA(); !ok || pin != m.CA.Pin() {
		t.Error("the host does not hold the key after a restart")
	}
	other := identitytest.NewMesh(t)
	if err := other.Host(t, "host2", 0).TakeBundle(got); err == nil || !strings.Contains(err.Error(), "is of mesh "+m.First.MeshID()) {
		t.Errorf("taken by a host of another mesh: %v", err)
	}
	got.MeshID = other.First.MeshID()
	if err := other.Host(t, "host3", 0).TakeBundle(got); err == nil || !strings.Contains(err.Error(), "do not belong together") {
		t.Errorf("the key of another CA: %v", err)
	}
}

func TestPassphrases(t *testing.T) {
	for text, want := range map[string]string{"": "fewer than 12", "elevenchars": "fewer than 12", "twelve chars": "", "\xff twelve chars": "UTF-8", "zwölf Zeichen": ""} {
		err := identity.ValidatePassphrase(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// The key leaves the state only when there is a bundle of it. Then a signer without a keyring
// cannot sign, and one with it can.
func TestWithdrawCAKey(t *testing.T) {
	m := newMesh(t)
	ctx := t.Context()
	if err := identity.WithdrawCAKey(ctx, m.Store); err == nil || !strings.Contains(err.Error(), "no recovery bundle") {
		t.Errorf("without a bundle: %v", err)
	}
	if err := identity.RecordBundle(ctx, m.Store, identity.BundleMade{CAPin: identity.Pin{}.String(), Host: "host1"}); err != nil {
		t.Fatal(err)
	}
	if err := identity.WithdrawCAKey(ctx, m.Store); err == nil {
		t.Error("withdrawn with the bundle of another CA")
	}
	pin, _ := m.First.HeldCA()
	if err := identity.RecordBundle(ctx, m.Store, identity.BundleMade{CAPin: pin.String(), Host: "host1"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := identity.WithdrawCAKey(ctx, m.Store); err != nil {
			t.Fatal(err)
		}
	}
	record, _, err := m.Store.Get(ctx, identity.KeyCA, raftstore.ReadOptions{})
	if err != nil || bytes.Contains(record.Value, []byte(`"key"`)) {
		t.Errorf("the record still has a key: %v", err)
	}
	if custody, err := identity.ReadCustody(ctx, m.Store, raftstore.ReadOptions{}); err != nil || custody.InState() || !custody.Bundled() || custody.CA != m.CA.Pin() {
		t.Errorf("custody %+v, %v", custody, err)
	}
	csr, err := identity.NewCSR(newKey(t), "host1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.signer.RenewHost(ctx, m.First.Node(), csr); !errors.Is(err, identity.ErrNoCAKey) {
		t.Errorf("signed without a key: %v", err)
	}
	if _, err := m.signer.WithKeyring(m.First.CAKeyOf, nil).RenewHost(ctx, m.First.Node(), csr); err != nil {
		t.Errorf("signed with the keyring: %v", err)
	}
	if err := m.First.DropCAKey(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(m.First.Dir(), "identity", "ca.key")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dropped key is on the disk: %v", err)
	}
	if _, err := identity.SelfIssuer(open(t, m.First.Dir()), nil, 0).IssueNode(ctx, csr); !errors.Is(err, identity.ErrNoCAKey) {
		t.Errorf("signed for itself without a key: %v", err)
	}
}

// A mesh whose bundle is made with it never has the key of its CA in its state; one whose
// bundle cannot be kept is not made.
func TestBundleOfANewMesh(t *testing.T) {
	dir, opts := filepath.Join(t.TempDir(), "state"), founder
	opts.KeepBundle = func(identity.Bundle) error { return errors.New("disk full") }
	if _, err := identity.InitMesh(dir, opts); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("made without its bundle: %v", err)
	}
	if member, err := identity.Initialised(dir); err != nil || member {
		t.Errorf("a member of a mesh without its bundle: %v", err)
	}
	var kept identity.Bundle
	opts.KeepBundle = func(b identity.Bundle) error { kept = b; return nil }
	if _, err := identity.InitMesh(dir, opts); err != nil {
		t.Fatal(err)
	}
	store := identitytest.NewStore()
	first := open(t, dir)
	if err := first.Seed(t.Context(), store, "test", 1); err != nil {
		t.Fatal(err)
	}
	custody, err := identity.ReadCustody(t.Context(), store, raftstore.ReadOptions{})
	if err != nil || custody.InState() || !custody.Bundled() || !custody.Bundle.Made.Equal(kept.Made) || custody.Bundle.Host != "host1" {
		t.Errorf("custody %+v, %v", custody, err)
	}
	secrets, _, err := identity.ReadSecretKeys(t.Context(), store, raftstore.ReadOptions{})
	ids, idsErr := kept.SecretKeyIDs()
	if errors.Join(err, idsErr) != nil || len(ids) != 1 || secrets.Active != ids[0] || !custody.Bundle.HasSecretKeys(secrets.IDs()) {
		t.Errorf("Secrets are encrypted with %q of %+v, the bundle has %q: %v, %v", secrets.Active, secrets, ids, err, idsErr)
	}
	if !bytes.Equal(kept.CAKey, first.CAKey()) || kept.MeshID != first.MeshID() {
		t.Error("the bundle holds another key")
	}
	if _, err := identity.ParseCA(kept.CACertificate, kept.CAKey); err != nil {
		t.Error(err)
	}
}

// A host's keys for Secrets are on its disk, for root alone, and in the bundle; who takes the
// bundle has them, and they go when the host has no business with them.
func TestSecretKeysOfAHost(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if _, err := identity.InitMesh(dir, founder); err != nil {
		t.Fatal(err)
	}
	first := open(t, dir)
	made := first.SecretKeyIDs()
	bundle, err := first.Bundle()
	if err != nil || len(made) != 1 {
		t.Fatalf("keys %q, %v", made, err)
	}
	file := filepath.Join(dir, "identity", "secret.keys")
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if err := first.RetainSecretKeys("another"); err != nil || len(first.SecretKeys()) > 0 {
		t.Errorf("the host still has %q, %v", first.SecretKeyIDs(), err)
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	if err := first.TakeBundle(bundle); err != nil {
		t.Fatal(err)
	}
	if again := open(t, dir); !slices.Equal(again.SecretKeyIDs(), made) {
		t.Errorf("the host has %q, want %q", again.SecretKeyIDs(), made)
	}
}
