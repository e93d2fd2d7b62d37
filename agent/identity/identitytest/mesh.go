package identitytest

import (
	"crypto/tls"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// Mesh is a mesh for tests: a CA and a seeded store, without any network.
type Mesh struct {
	Store *Store
	CA    *identity.CA
	// First is the identity of the first host, "host1".
	First *identity.Identity
}

// NewMesh makes a mesh whose first host is "host1" at 127.0.0.1:7443.
func NewMesh(t testing.TB) *Mesh {
	t.Helper()
	dir := t.TempDir()
	ca, err := identity.InitMesh(dir, identity.InitOptions{
		Host: "host1", MeshAddress: "127.0.0.1:7443", GossipAddress: "127.0.0.1:7946",
	})
	if err != nil {
		t.Fatalf("init mesh: %v", err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatalf("open identity: %v", err)
	}
	store := NewStore()
	if err := id.Seed(t.Context(), store, "test", 1); err != nil {
		t.Fatalf("seed: %v", err)
	}
	return &Mesh{Store: store, CA: ca, First: id}
}

// Host returns the identity of another host, with a certificate that is valid for
// lifetime (zero: the default). If the store has a record of that name, the identity
// has the record's ID; otherwise the store holds no record of it.
func (m *Mesh) Host(t testing.TB, name string, lifetime time.Duration) *identity.Identity {
	t.Helper()
	if lifetime == 0 {
		lifetime = identity.DefaultNodeLifetime
	}
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := identity.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	node := identity.NewNode(name)
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	if rec, err := identity.NewHosts(m.Store).Get(t.Context(), name, local); err == nil {
		node = rec.Node()
	}
	chain, err := m.CA.IssueNode(&key.PublicKey, node, []string{"127.0.0.1"}, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = identity.CreateState(dir, identity.State{
		Info: identity.Info{
			MeshID: m.First.MeshID(), Host: name, HostID: node.ID, MeshAddress: "127.0.0.1:7443",
			GossipAddress: "127.0.0.1:7946", Joined: time.Now(),
		},
		Chain: chain, Key: keyPEM, CABundle: m.CA.CertificatePEM(), GossipKeys: m.First.GossipKeys(),
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// Admin returns an administrator's certificate, valid for lifetime, with its key.
func (m *Mesh) Admin(t testing.TB, lifetime time.Duration) *tls.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := m.CA.IssueClient(&key.PublicKey, identity.AdminName, []string{identity.AdminOrganization}, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates(pem)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{certs[0].Raw}, Leaf: certs[0], PrivateKey: key}
}
