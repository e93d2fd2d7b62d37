package cli

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostseal"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/sealed"
)

// fakeKeyring is a host's keyring that knows whether it was told of a bundle.
type fakeKeyring struct {
	bundle identity.Bundle
	fails  error
	made   admin.KeyringBundleRequest
}

func (f *fakeKeyring) KeyringBundle(context.Context) (identity.Bundle, error) {
	return f.bundle, f.fails
}

func (f *fakeKeyring) KeyringBundleMade(_ context.Context, made admin.KeyringBundleRequest) error {
	f.made = made
	return nil
}

// serveKeyring serves a keyring as a local agent does, and returns the flags that reach it.
func serveKeyring(t *testing.T, k admin.Keyring) []string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: admin.WithKeyring(k, admin.NewHandler(wellMesh(), admin.AsRoot))}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return []string{"--socket", socket}
}

func testBundle(t *testing.T) identity.Bundle {
	t.Helper()
	ca, err := identity.NewCA("m1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	secrets, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	secretKey, err := secrets.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return identity.Bundle{
		MeshID: "m1", Made: time.Date(2026, 11, 26, 20, 0, 0, 0, time.UTC), CACertificate: ca.CertificatePEM(), CAKey: key, SecretKeys: [][]byte{secretKey},
	}
}

// passphraseFile returns what --passphrase takes for a passphrase in a file.
func passphraseFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "@" + path
}

// A recovery bundle is written for its owner alone and encrypted, it can be opened, and the
// mesh is told of it.
func TestKeyringBundle(t *testing.T) {
	k := &fakeKeyring{bundle: testBundle(t)}
	path := filepath.Join(t.TempDir(), "mesh.bundle")
	args := append(serveKeyring(t, k), "keyring", "bundle", "--output", path, "--passphrase", passphraseFile(t, "correct horse battery\nmore"))
	code, stdout, stderr := run(t, args...)
	if code != 0 || stderr != "" || !strings.Contains(stdout, path) || !strings.Contains(stdout, "mesh m1") {
		t.Fatalf("exit code %d, %q, stderr %q", code, stdout, stderr)
	}
	if ids, err := k.bundle.SecretKeyIDs(); err != nil || !k.made.Made.Equal(k.bundle.Made) || !slices.Equal(k.made.SecretKeys, ids) {
		t.Errorf("the mesh was told of a bundle %+v, %v", k.made, err)
	}
	if ca, err := k.bundle.CAPin(); err != nil || k.made.CAPin != ca.String() {
		t.Errorf("the mesh was told of a bundle with the key of CA %q, want %s, %v", k.made.CAPin, ca, err)
	}
	sealed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode() != 0o600 || bytes.Contains(sealed, k.bundle.CAKey) {
		t.Errorf("mode %s, content %s", info.Mode(), sealed)
	}
	got, err := identity.OpenBundle(bytes.NewReader(sealed), "correct horse battery")
	if err != nil || !bytes.Equal(got.CAKey, k.bundle.CAKey) {
		t.Errorf("opened: %v", err)
	}
	if recipient, err := got.Recipient(); err != nil || recipient == "" || k.made.Recipient != recipient {
		t.Errorf("the mesh encrypts later keys for %q, the bundle opens what is for %q, %v", k.made.Recipient, recipient, err)
	}
	if code, _, stderr := run(t, args...); code != 1 || !strings.Contains(stderr, "exists already") {
		t.Errorf("a second bundle over the first: %d %q", code, stderr)
	}
}

// What goes wrong leaves no file, and the mesh keeps the key in its state.
func TestKeyringBundleRefused(t *testing.T) {
	follower := fault.New(fault.Unavailable, "host2 does not vote").WithRemedy("make it on a voter")
	for name, c := range map[string]struct {
		fails      error
		passphrase string
		want       string
	}{
		"short":               {nil, passphraseFile(t, "too short"), "fewer than 12 characters"},
		"empty":               {nil, passphraseFile(t, ""), "there is none"},
		"no such file":        {nil, "@/missing/passphrase", "no such file"},
		"on the command line": {nil, "correct horse battery", "every user of this machine can read a command line"},
		"no terminal":         {nil, "", "--passphrase -"},
		"a follower":          {follower, passphraseFile(t, "correct horse battery"), "make it on a voter"},
	} {
		t.Run(name, func(t *testing.T) {
			k := &fakeKeyring{bundle: testBundle(t), fails: c.fails}
			path := filepath.Join(t.TempDir(), "mesh.bundle")
			code, _, stderr := run(t, append(serveKeyring(t, k), "keyring", "bundle", "--output", path, "--passphrase", c.passphrase)...)
			if code == 0 || !strings.Contains(stderr, c.want) {
				t.Errorf("exit code %d, stderr %q, want %q", code, stderr, c.want)
			}
			if _, err := os.Stat(path); err == nil || !k.made.Made.IsZero() {
				t.Error("there is a file, or the mesh was told of one")
			}
		})
	}
}

func TestKeyringSentence(t *testing.T) {
	made := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	for want, k := range map[string]admin.KeyringStatus{
		"every host and every backup holds the CA's key; no recovery bundle: make one on a voter with 'virtmesh keyring bundle --output FILE'": {CAKeyInState: true},
		"only the voters hold the CA's key; Secrets are encrypted; recovery bundle of 2026-11-26":                                              {SecretsEncrypted: true, Bundle: &admin.KeyringBundle{Made: made, Current: true}},
		"only the voters hold the CA's key; Secrets are encrypted, with a new key once a recovery bundle has it ('virtmesh keyring bundle --output FILE' on a voter); recovery bundle of 2026-11-26": {
			SecretsEncrypted: true, SecretKeyWaits: true, Bundle: &admin.KeyringBundle{Made: made, Current: true}},
		"only the voters hold the CA's key; Secrets are encrypted, with a new key once every voter has it ('virtmesh secrets rotate-key --status'); recovery bundle of 2026-11-26": {
			SecretsEncrypted: true, SecretKeyWaits: true, SecretKeyBundled: true, Bundle: &admin.KeyringBundle{Made: made, Current: true}},
		"every host and every backup holds the CA's key; Secrets are in clear until a recovery bundle has their key ('virtmesh keyring bundle --output FILE' on a voter); no recovery bundle: make one on a voter with 'virtmesh keyring bundle --output FILE'": {
			CAKeyInState: true, SecretKeyWaits: true},
		"every host and every backup holds the CA's key; recovery bundle of 2026-11-26; the key leaves the mesh's state at feature level 3, once every voter answers": {CAKeyInState: true, Bundle: &admin.KeyringBundle{Made: made, Current: true}},
		"only the voters hold the CA's key; recovery bundle of 2026-11-26":                                                                                            {Bundle: &admin.KeyringBundle{Made: made, Current: true}},
		"only the voters hold the CA's key; Secrets are encrypted; recovery bundle of 2026-11-26, which stays good when keys are replaced": {
			SecretsEncrypted: true, BundlesStayGood: true, Bundle: &admin.KeyringBundle{Made: made, Current: true, StaysGood: true}},
		"only the voters hold the CA's key; Secrets are encrypted, and a new key waits until the recovery bundle gives it back, which takes seconds; recovery bundle of 2026-11-26, which stays good when keys are replaced": {
			SecretsEncrypted: true, SecretKeyWaits: true, BundlesStayGood: true, Bundle: &admin.KeyringBundle{Made: made, Current: true, StaysGood: true}},
		"only the voters hold the CA's key; Secrets are encrypted; recovery bundle of 2026-11-26, of an earlier version: a new one stays good when keys are replaced ('virtmesh keyring bundle --output FILE' on a voter)": {
			SecretsEncrypted: true, BundlesStayGood: true, Bundle: &admin.KeyringBundle{Made: made, Current: true}},
		"every host and every backup holds the CA's key; no recovery bundle: make one on a voter with 'virtmesh keyring bundle --output FILE' ": {
			CAKeyInState: true, Seal: admin.KeyringSeal{With: hostseal.KindTPM}},
		"only the voters hold the CA's key; recovery bundle of 2026-11-26; on this host's disk sealed with its TPM": {
			Bundle: &admin.KeyringBundle{Made: made, Current: true}, Seal: admin.KeyringSeal{With: hostseal.KindTPM}},
		"only the voters hold the CA's key; recovery bundle of 2026-11-26; on this host's disk sealed with a file of root's": {
			Bundle: &admin.KeyringBundle{Made: made, Current: true}, Seal: admin.KeyringSeal{With: hostseal.KindFile, NoTPM: "this host has no TPM 2"}},
		"only the voters hold the CA's key; the recovery bundle of 2026-11-26 is outdated: make one on a voter with 'virtmesh keyring bundle --output FILE'": {Bundle: &admin.KeyringBundle{Made: made}},
	} {
		want = strings.TrimSpace(want) // the same sentence for another status
		if got := keyringSentence(&k); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// The first bundle goes with a mesh that was not made, and stays with one whose state stayed.
func TestTheFirstBundleStaysWithItsMesh(t *testing.T) {
	for _, made := range []bool{false, true} {
		dir := t.TempDir()
		b := firstBundle{path: filepath.Join(t.TempDir(), "mesh.bundle"), passphrase: "correct horse battery"}
		options := identity.InitOptions{Host: "host1", MeshAddress: "127.0.0.1:7443", GossipAddress: "127.0.0.1:7946", KeepBundle: b.keep()}
		if _, err := identity.InitMesh(dir, options); err != nil {
			t.Fatal(err)
		}
		if !made {
			if err := identity.RemoveState(dir); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.remove(dir); (err != nil) != made {
			t.Errorf("made %t: %v", made, err)
		}
		if _, err := os.Stat(b.path); (err == nil) != made {
			t.Errorf("made %t: the bundle: %v", made, err)
		}
	}
}

// A recovery bundle is made from the disk of a host whose agent does not run.
func TestABundleFromAStateDirectory(t *testing.T) {
	dir := t.TempDir()
	if _, err := identity.InitMesh(dir, identity.InitOptions{Host: "host1", MeshAddress: "127.0.0.1:7443", GossipAddress: "127.0.0.1:7946"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "mesh.bundle")
	const passphrase = "correct horse battery"
	code, stdout, stderr := run(t, "keyring", "bundle", "--state-dir", dir, "--output", path, "--passphrase", passphraseFile(t, passphrase))
	if code != 0 || !strings.Contains(stdout, "agent recover --keyring-bundle") {
		t.Fatalf("exit code %d, %q, %q", code, stdout, stderr)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := identity.OpenBundle(bytes.NewReader(content), passphrase)
	if err != nil || len(bundle.SecretKeys) != 1 {
		t.Errorf("%d keys for Secrets, %v", len(bundle.SecretKeys), err)
	}
	if code, _, stderr := run(t, "keyring", "bundle", "--state-dir", t.TempDir(), "--output", path+"2", "--passphrase", passphraseFile(t, passphrase)); code == 0 || !strings.Contains(stderr, "not a member") {
		t.Errorf("from an empty directory: exit code %d, %q", code, stderr)
	}
}
