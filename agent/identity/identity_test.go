package identity_test

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
)

var founder = identity.InitOptions{
	Host: "host1", MeshAddress: "10.0.0.1:7443", GossipAddress: "10.0.0.1:7946", SANs: []string{"api.example.org"},
}

func initMesh(t *testing.T) (string, *identity.CA) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	ca, err := identity.InitMesh(dir, founder)
	if err != nil {
		t.Fatal(err)
	}
	return dir, ca
}

func open(t *testing.T, dir string) *identity.Identity {
	t.Helper()
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestInitMesh(t *testing.T) {
	dir, ca := initMesh(t)
	id := open(t, dir)
	if id.Host() != "host1" || len(id.MeshID()) != 16 || !id.Founder() {
		t.Errorf("identity is %+v, founder %v", id.Info(), id.Founder())
	}
	if keys := id.GossipKeys(); len(keys) != 1 || len(keys[0]) != identity.GossipKeyLen {
		t.Errorf("gossip keys %x", keys)
	}
	root := ca.Certificate()
	if years := time.Until(root.NotAfter).Hours() / 24 / 365; years < 9.9 || years > 10.1 || !root.IsCA {
		t.Errorf("the CA lives %.1f years", years)
	}
	leaf := id.Leaf()
	for _, name := range []string{"host1", "localhost", "virtmesh", "api.example.org", "10.0.0.1", "127.0.0.1", "::1"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Errorf("an API client cannot verify %s: %v", name, err)
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		host, err := identity.VerifyNode([]*x509.Certificate{leaf}, id.Roots(), time.Now(), use)
		if host != id.Node() || host.Name != "host1" || err != nil {
			t.Errorf("VerifyNode: %s, %v", host, err)
		}
	}
}

func TestStateIsPrivate(t *testing.T) {
	dir, _ := initMesh(t)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		switch {
		case path == dir:
			want = 0o711 // QEMU passes through it to the disks
		case d.IsDir():
			want = 0o700
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInitTwice(t *testing.T) {
	dir, _ := initMesh(t)
	before := open(t, dir).MeshID()
	if _, err := identity.InitMesh(dir, founder); !errors.Is(err, identity.ErrInitialised) {
		t.Fatalf("second init: %v", err)
	}
	if after := open(t, dir).MeshID(); after != before {
		t.Error("the second init changed the mesh")
	}
}

func TestInitRace(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = identity.InitMesh(dir, founder) })
	}
	wg.Wait()
	var won int
	for _, err := range errs {
		if err == nil {
			won++
		} else if !errors.Is(err, identity.ErrInitialised) {
			t.Errorf("a loser got %v", err)
		}
	}
	if won != 1 {
		t.Errorf("%d inits won", won)
	}
	open(t, dir)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestInitRefuses(t *testing.T) {
	tests := map[string]func(*identity.InitOptions){
		"host name is empty":     func(o *identity.InitOptions) { o.Host = "" },
		"only lower-case":        func(o *identity.InitOptions) { o.Host = "Host_1" },
		"is reserved":            func(o *identity.InitOptions) { o.Host = "localhost" },
		"is an address":          func(o *identity.InitOptions) { o.Host = "10.1.2.3" },
		"at most 63":             func(o *identity.InitOptions) { o.Host = strings.Repeat("a", 64) },
		"mesh address":           func(o *identity.InitOptions) { o.MeshAddress = "10.0.0.1" },
		"others cannot dial it":  func(o *identity.InitOptions) { o.MeshAddress = "0.0.0.0:7443" },
		"gossip address":         func(o *identity.InitOptions) { o.GossipAddress = ":7946" },
		"neither an address nor": func(o *identity.InitOptions) { o.SANs = []string{"*.example.org"} },
		"must be positive":       func(o *identity.InitOptions) { o.Lifetime = -1 },
	}
	for want, spoil := range tests {
		t.Run(want, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "state")
			opts := founder
			spoil(&opts)
			_, err := identity.InitMesh(dir, opts)
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, want)
			}
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Error("something was written")
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := identity.Open(t.TempDir()); !errors.Is(err, identity.ErrNotInitialised) {
		t.Errorf("empty directory: %v", err)
	}
	spoil := map[string]string{
		"mesh.json": "{", "ca.crt": "", "node.pem": "x", "gossip.keys": "AAAA\n",
	}
	for name, content := range spoil {
		t.Run(name, func(t *testing.T) {
			dir, _ := initMesh(t)
			if err := os.WriteFile(filepath.Join(dir, "identity", name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := identity.Open(dir); err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("damaged %s: %v", name, err)
			}
		})
	}
}

func TestOpenRemovesLeftovers(t *testing.T) {
	dir, _ := initMesh(t)
	for _, path := range []string{".identity-1/node.pem", "identity/.node.pem-2"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte("key"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir)
	var left []string
	for _, at := range []string{"", "identity"} {
		entries, err := os.ReadDir(filepath.Join(dir, at))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				left = append(left, e.Name())
			}
		}
	}
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRemoveState(t *testing.T) {
	dir, _ := initMesh(t)
	for range 2 {
		if err := identity.RemoveState(dir); err != nil {
			t.Fatal(err)
		}
		if done, err := identity.Initialised(dir); done || err != nil {
			t.Fatalf("initialised %v, %v", done, err)
		}
	}
	if _, err := identity.InitMesh(dir, founder); err != nil {
		t.Errorf("init after leaving: %v", err)
	}
}

func TestCertificates(t *testing.T) {
	_, ca := initMesh(t)
	pool := x509.NewCertPool()
	pool.AddCert(ca.Certificate())

	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, err := ca.IssueClient(&key.PublicKey, identity.AdminName, []string{identity.AdminOrganization}, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	admin := certs[0]
	if admin.Subject.CommonName != "virtmesh:admin" || !slices.Equal(admin.Subject.Organization, []string{"system:masters"}) {
		t.Errorf("subject %s", admin.Subject)
	}
	if _, err := admin.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
	if _, err := admin.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("an administrator can pose as a server")
	}
	if _, err := identity.VerifyNode(certs, pool, time.Now(), x509.ExtKeyUsageClientAuth); !errors.Is(err, identity.ErrNotNode) {
		t.Errorf("an administrator passes as a host: %v", err)
	}

	if _, err := ca.IssueClient(&key.PublicKey, "system:node:host1", nil, time.Hour); err == nil {
		t.Error("a client certificate names a host")
	}
	if _, err := ca.IssueClient(&key.PublicKey, "eve", []string{"system:nodes"}, time.Hour); err == nil {
		t.Error("a client certificate is in the group of the hosts")
	}
	if chain, err := ca.IssueNode(&key.PublicKey, identity.NewNode("host9"), nil, 2*identity.CALifetime); err != nil {
		t.Error(err)
	} else if certs, _ := identity.ParseCertificates(chain); certs[0].NotAfter.After(ca.Certificate().NotAfter) {
		t.Error("a certificate outlives its CA")
	}
}

func TestForeignCAIsRefused(t *testing.T) {
	dir, first := initMesh(t)
	id := open(t, dir)
	other, err := identity.NewCA("other")
	if err != nil {
		t.Fatal(err)
	}
	key, _ := identity.NewKey()
	chain, err := other.IssueNode(&key.PublicKey, id.Node(), nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	before := id.Leaf()
	for name, issued := range map[string]identity.Issued{
		"unknown CA":                  {Chain: chain, CABundle: id.CABundle()},
		"a CA that it brings along":   {Chain: chain, CABundle: other.CertificatePEM()},
		"one beside that of the mesh": {Chain: chain, CABundle: append(id.CABundle(), other.CertificatePEM()...)},
	} {
		if err := id.Install(key, issued); err == nil {
			t.Errorf("%s: installed", name)
		}
	}
	if id.Leaf() != before || open(t, dir).Leaf().SerialNumber.Cmp(before.SerialNumber) != 0 {
		t.Error("a refused certificate replaced the old one")
	}
	// Once the mesh's state says that hosts trust both, the change of CA goes through.
	if changed, err := id.KeepTrust(append(id.CABundle(), other.CertificatePEM()...), 1); err != nil || !changed {
		t.Error(changed, err)
	}
	if err := id.Install(key, identity.Issued{Chain: chain}); err != nil || id.SignedBy() != other.Pin() {
		t.Errorf("change of CA: %v", err)
	}
	if open(t, dir).Leaf().Issuer.CommonName != "virtmesh CA other" {
		t.Error("the certificate of the new CA is not on the disk")
	}
	if !id.IsTrusted() {
		t.Error("it does not trust the CA that has signed for it")
	}
	if _, err := id.KeepTrust(first.CertificatePEM(), 2); err != nil || id.IsTrusted() {
		t.Errorf("it trusts a certificate of a CA that was given up: %v", err)
	}
}

func TestInstallRefusesOtherHostAndKey(t *testing.T) {
	dir, ca := initMesh(t)
	id := open(t, dir)
	key, _ := identity.NewKey()
	for _, node := range []identity.Node{{Name: "host2", ID: id.Node().ID}, identity.NewNode("host1")} {
		other, _ := ca.IssueNode(&key.PublicKey, node, nil, time.Hour)
		if err := id.Install(key, identity.Issued{Chain: other, CABundle: id.CABundle()}); err == nil {
			t.Errorf("took the certificate of %s", node)
		}
	}
	mine, _ := ca.IssueNode(&key.PublicKey, id.Node(), nil, time.Hour)
	wrong, _ := identity.NewKey()
	if err := id.Install(wrong, identity.Issued{Chain: mine, CABundle: id.CABundle()}); err == nil {
		t.Error("took a certificate for another key")
	}
}

func TestClockInsideBubbleIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		id := m.Host(t, "host2", time.Hour)
		if _, err := identity.VerifyNode([]*x509.Certificate{id.Leaf()}, id.Roots(), time.Now(), x509.ExtKeyUsageClientAuth); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Hour)
		if _, err := identity.VerifyNode([]*x509.Certificate{id.Leaf()}, id.Roots(), time.Now(), x509.ExtKeyUsageClientAuth); err == nil {
			t.Error("a certificate outlives its end")
		}
		if _, err := identity.Open(id.Dir()); err != nil {
			t.Errorf("an expired identity cannot be opened, so it cannot be renewed: %v", err)
		}
	})
}

func TestValidateAddress(t *testing.T) {
	for _, good := range []string{"10.0.0.1:7443", "[fd00::1]:7443", "host1.example.org:1", net.JoinHostPort("h", "65535")} {
		if err := identity.ValidateAddress(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "10.0.0.1", ":7443", "10.0.0.1:0", "10.0.0.1:65536", "[::]:1", "[fe80::1%eth0]:1", "Host:1", "a b:1"} {
		if err := identity.ValidateAddress(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

// TestSeedsAreKept: they are all that is left to find the mesh by when the copy of the
// store is lost, and they are no longer a sign of who founded it.
func TestSeedsAreKept(t *testing.T) {
	dir, _ := initMesh(t)
	id := open(t, dir)
	before := id.Info()
	seeds := []identity.Seed{{Host: "host2", MeshAddress: "10.0.0.2:7443", GossipAddress: "10.0.0.2:7946", HostID: "machine 2", KeyPin: "pin 2"}}
	if err := id.SetSeeds(seeds); err != nil {
		t.Fatal(err)
	}
	for _, now := range []*identity.Identity{id, open(t, dir)} {
		info := now.Info()
		if !slices.Equal(info.Seeds, seeds) || info.MeshID != before.MeshID || !info.Joined.Equal(before.Joined) || !now.Founder() {
			t.Errorf("identity is %+v, founder %v", info, now.Founder())
		}
	}
	if err := id.SetSeeds(nil); err != nil || len(open(t, dir).Info().Seeds) != 0 {
		t.Errorf("seeds of a mesh of one host: %v", err)
	}
}
