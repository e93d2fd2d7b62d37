package identity_test

import (
	"crypto/ecdsa"
	"errors"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
)

// keepKey notes in the record of a host which key it has and keeps.
func keepKey(t *testing.T, m mesh, id *identity.Identity) {
	t.Helper()
	err := m.hosts.Update(t.Context(), id.Node(), func(r *identity.HostRecord) { r.KeyPin, r.KeyKept = id.KeyPin().String(), true })
	if err != nil {
		t.Fatal(err)
	}
}

// TestAForgedCertificateIsRefused: who has the CA's key makes a certificate that names a host
// and its ID. Without the host's key it opens no door.
func TestAForgedCertificateIsRefused(t *testing.T) {
	m := newMesh(t)
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	host2, forged := m.Host(t, "host2", time.Hour), m.Host(t, "host2", time.Hour)
	if host2.Node() != forged.Node() {
		t.Fatal("the forged certificate names another host, so the test tests nothing")
	}
	notary := identity.NewNotary(m.First, m.hosts.StillMember)
	doors := func(id *identity.Identity) map[string]error {
		signed, err := identity.NewNotary(id, nil).Sign([]byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		_, verified := notary.Verify([]byte("message"), signed)
		csr, err := id.NextCSR()
		if err != nil {
			t.Fatal(err)
		}
		proof, err := id.Prove(csr)
		if err != nil {
			t.Fatal(err)
		}
		_, _, renewed := renewByProof(t, m.signer, proof)
		return map[string]error{"connection": m.hosts.Admit(id.Node(), id.KeyPin()), "signature": verified, "renewal": renewed}
	}
	for door, err := range doors(forged) {
		if err != nil {
			t.Errorf("%s, before the record says that the host keeps its key: %v", door, err)
		}
	}
	keepKey(t, m, host2)
	for door, err := range doors(host2) {
		if err != nil {
			t.Errorf("%s of the host itself: %v", door, err)
		}
	}
	for door, err := range doors(forged) {
		if !errors.Is(err, identity.ErrOtherKey) || !errors.Is(err, fault.Forbidden) {
			t.Errorf("%s of the forged certificate: %v", door, err)
		}
	}
	// The key of an ID is for life.
	keepKey(t, m, forged)
	if err := m.hosts.Admit(host2.Node(), host2.KeyPin()); err != nil {
		t.Errorf("an update has changed the key that the host keeps: %v", err)
	}
	if err := m.hosts.Remove(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if err := m.hosts.Admit(host2.Node(), host2.KeyPin()); err != nil {
		t.Errorf("a host that is leaving: %v", err)
	}
	if err := m.hosts.Admit(forged.Node(), forged.KeyPin()); !errors.Is(err, identity.ErrOtherKey) {
		t.Errorf("the forged certificate of a host that is leaving: %v", err)
	}
}

// A host that repeats its request to join keeps its key.
func TestARepeatedAdmissionKeepsTheKey(t *testing.T) {
	m := newMesh(t)
	token, key := m.token(t), newKey(t)
	signer := m.signer.WithKeptKeys(func() bool { return true })
	for range 2 {
		got, err := signer.Admit(t.Context(), candidate(token, key, "host2"))
		if err != nil {
			t.Fatal(err)
		}
		certs, err := identity.ParseCertificates(got.Chain)
		if err != nil {
			t.Fatal(err)
		}
		node, err := identity.NodeOf(certs[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := m.hosts.Admit(node, identity.PinOf(certs[0])); err != nil {
			t.Error(err)
		}
		if err := m.hosts.Admit(node, pinOf(t, newKey(t))); !errors.Is(err, identity.ErrOtherKey) {
			t.Errorf("another key: %v", err)
		}
	}
}

func pinOf(t *testing.T, key *ecdsa.PrivateKey) identity.Pin {
	t.Helper()
	pin, err := identity.PinOfKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return pin
}

func BenchmarkAdmit(b *testing.B) {
	m := identitytest.NewMesh(b)
	hosts, node, pin := identity.NewHosts(m.Store), m.First.Node(), m.First.KeyPin()
	b.ReportAllocs()
	for b.Loop() {
		if err := hosts.Admit(node, pin); err != nil {
			b.Fatal(err)
		}
	}
}
