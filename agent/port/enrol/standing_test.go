package enrol_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
)

// earlierCA returns a CA as versions made it that did not know that a CA can be replaced: it
// allows none below it.
func earlierCA(t *testing.T) *identity.CA {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "virtmesh CA"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := identity.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := identity.ParseCA(identity.EncodeCertificates(cert), keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// offHost returns a host that was off since a CA signed for it, and knows no other.
func offHost(t *testing.T, m *member, ca *identity.CA, node identity.Node) *identity.Identity {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := identity.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := ca.IssueNode(&key.PublicKey, node, nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	err = identity.CreateState(dir, identity.State{
		Info:  identity.Info{MeshID: m.First.MeshID(), Host: node.Name, HostID: node.ID, MeshAddress: "127.0.0.1:7443", GossipAddress: "127.0.0.1:7946"},
		Chain: chain, Key: keyPEM, CABundle: ca.CertificatePEM(), GossipKeys: m.First.GossipKeys(),
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

func put(t *testing.T, m *member, key string, value any) {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: data}}}); err != nil {
		t.Fatal(err)
	}
}

// succeed lets a CA that takes the place of a former one sign for the mesh, also for its first host.
func succeed(t *testing.T, m *member, former *identity.CA, rec *identity.CARecord) *identity.CA {
	t.Helper()
	next, successor, err := former.NewSuccessor(rec.MeshID)
	if err != nil {
		t.Fatal(err)
	}
	if rec.Key, err = next.KeyPEM(); err != nil {
		t.Fatal(err)
	}
	rec.Certificate, rec.Bundle = next.CertificatePEM(), next.CertificatePEM()
	rec.Former = []identity.FormerCA{{Certificate: former.CertificatePEM(), Successor: successor}}
	key, ok := m.First.Certificate().PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("the key of host1 is of another kind")
	}
	chain, err := next.IssueNode(&key.PublicKey, m.First.Node(), nil, time.Hour)
	if err == nil {
		_, err = m.First.KeepTrust(rec.Bundle, 4)
	}
	if err == nil {
		err = m.First.Install(key, identity.Issued{Chain: chain})
	}
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// A host that was off while the CA was replaced, and whose CA vouches for none, is told which CAs
// the mesh trusts by a host whose key it knows, and gets a certificate for its own key, as long as
// the former CA's time lasts. Who has only the key of the former CA gets none.
func TestAHostComesBackFromAFormerCA(t *testing.T) {
	m := newMember(t)
	former, at := earlierCA(t), m.port.Addr().String()
	node := identity.NewNode("host2")
	id := offHost(t, m, former, node)
	put(t, m, identity.HostKey("host2"), identity.HostRecord{Name: "host2", ID: node.ID, MeshAddress: "127.0.0.1:7443", GossipAddress: "127.0.0.1:7946", KeyPin: id.KeyPin().String(), KeyKept: true})
	rec, err := identity.ReadCARecord(t.Context(), m.Store, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signing := succeed(t, m, former, &rec)
	rec.Generation, rec.Former[0].Until = 4, time.Now().Add(time.Hour)
	put(t, m, identity.KeyCA, rec)

	if _, err := enrol.AskStanding(t.Context(), id, "v1", at, func(identity.Node, identity.Pin) bool { return false }); err == nil {
		t.Error("it believes a host whose CA and key it does not know")
	}
	said, err := enrol.AskStanding(t.Context(), id, "v1", at, func(by identity.Node, key identity.Pin) bool {
		return by == m.First.Node() && key == m.First.KeyPin()
	})
	if err != nil || said.Generation != 4 || identity.TrustFingerprint(said.CABundle) != identity.TrustFingerprint(rec.Bundle) {
		t.Fatalf("%+v, %v", said, err)
	}
	if _, err := id.KeepTrust(said.CABundle, said.Generation); err != nil {
		t.Fatal(err)
	}
	renewal := func(id *identity.Identity) error {
		csr, err := id.NextCSR()
		if err != nil {
			t.Fatal(err)
		}
		issued, err := enrol.Renewal(enrol.RenewalConfig{Identity: id, Version: "v1", Members: func() []string { return []string{at} }}).IssueNode(t.Context(), csr)
		if err != nil {
			return err
		}
		certs, err := identity.ParseCertificates(issued.Chain)
		if err == nil && identity.PinOf(certs[1]) != signing.Pin() {
			err = errors.New("another CA signed")
		}
		return err
	}
	thief := offHost(t, m, former, node)
	if _, err := thief.KeepTrust(rec.Bundle, 4); err != nil {
		t.Fatal(err)
	}
	if err := renewal(thief); !errors.Is(err, fault.BadProof) {
		t.Errorf("who has the former CA's key and not the host's: %v", err)
	}
	if err := renewal(id); err != nil {
		t.Errorf("within the time: %v", err)
	}
	rec.Former[0].Until = time.Now().Add(-time.Second)
	put(t, m, identity.KeyCA, rec)
	if err := renewal(id); !errors.Is(err, fault.BadProof) || !strings.Contains(err.Error(), "could come back by itself until") {
		t.Errorf("after the time: %v", err)
	}
}
