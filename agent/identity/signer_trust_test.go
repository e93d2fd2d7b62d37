package identity_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// write changes a record as any host can.
func write[T any](r *rotating, key string, change func(*T)) T {
	r.t.Helper()
	stored, _, err := r.Store.Get(r.t.Context(), key, raftstore.ReadOptions{})
	r.must(err)
	var rec T
	r.must(json.Unmarshal(stored.Value, &rec))
	change(&rec)
	data, err := json.Marshal(rec)
	r.must(err)
	_, err = r.Store.Commit(r.t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: data}}})
	r.must(err)
	return rec
}

// machine returns a machine of somebody, with a certificate of a CA for a host.
func (r *rotating) machine(ca *identity.CA, node identity.Node, key *ecdsa.PrivateKey) *identity.Identity {
	r.t.Helper()
	chain, err := ca.IssueNode(&key.PublicKey, node, nil, time.Hour)
	r.must(err)
	keyPEM, err := identity.EncodeKey(key)
	r.must(err)
	dir := r.t.TempDir()
	r.must(identity.CreateState(dir, identity.State{
		Info:  identity.Info{MeshID: r.First.MeshID(), Host: node.Name, HostID: node.ID, MeshAddress: "127.0.0.1:1", GossipAddress: "127.0.0.1:1"},
		Chain: chain, Key: keyPEM, CABundle: ca.CertificatePEM(), GossipKeys: r.First.GossipKeys(),
	}))
	id, err := identity.Open(dir)
	r.must(err)
	return id
}

// voter returns the Signer of the voter host1, which follows the mesh's CAs.
func (r *rotating) voter() *identity.Signer {
	r.t.Helper()
	r.must(keep(r.First, r.signing))
	return identity.NewSigner(r.Store, time.Hour).WithKeyring(r.First.CAKeyOf, nil).WithTrust(r.First.CABundle).
		WithVotes(func() []string { return []string{"host1"} }).WithKeptKeys(func() bool { return true })
}

// follow lets host1 trust what the record says.
func (r *rotating) follow() {
	r.t.Helper()
	rec := r.record()
	_, err := r.First.KeepTrust(rec.Bundle, rec.Generation)
	r.must(err)
}

// Any host can write the record of the CA and those of hosts. With both it gets no certificate of
// a voter for its own key: a voter knows hosts by the CAs that it trusts itself, and by former ones
// of which these say that they took their place.
func TestNoCertificateForTheCAOfAMember(t *testing.T) {
	for how, change := range map[string]func(*identity.CARecord, *identity.CA){
		"trusted": func(rec *identity.CARecord, own *identity.CA) {
			rec.Bundle = append(rec.Bundle, own.CertificatePEM()...)
		},
		"former": func(rec *identity.CARecord, own *identity.CA) {
			rec.Former = append(rec.Former, identity.FormerCA{Certificate: own.CertificatePEM(), Until: time.Now().Add(time.Hour)})
		},
	} {
		r := newRotating(t)
		r.replace("one", time.Now().Add(time.Hour))
		r.follow()
		own, err := identity.NewCA(r.First.MeshID())
		r.must(err)
		key := newKey(t)
		pin, err := identity.PinOfKey(&key.PublicKey)
		r.must(err)
		host := write(r, identity.HostKey("host1"), func(rec *identity.HostRecord) { rec.KeyPin, rec.KeyKept = pin.String(), true })
		write(r, identity.KeyCA, func(rec *identity.CARecord) { change(rec, own) })
		thief := r.machine(own, host.Node(), key)
		csr, err := thief.NextCSR()
		r.must(err)
		proof, err := thief.Prove(csr)
		r.must(err)
		if _, err := r.voter().SignRenewal(t.Context(), proof); !errors.Is(err, fault.BadProof) {
			t.Errorf("a member whose CA is %s by the record gets a certificate of host1 for its own key: %v", how, err)
		}
	}
}

// A host that was off comes back by itself after as many replacements of the CA as the record has
// former CAs, and after one more it is told why not, and what to do. One that was removed meanwhile
// learns that. Who has another key is told neither.
func TestWhoWasOffForMoreReplacementsThanAreKept(t *testing.T) {
	r := newRotating(t)
	key := newKey(t)
	pin, err := identity.PinOfKey(&key.PublicKey)
	r.must(err)
	host := write(r, identity.HostKey("host1"), func(rec *identity.HostRecord) { rec.KeyPin, rec.KeyKept = pin.String(), true })
	prove := func(key *ecdsa.PrivateKey) identity.RenewalProof {
		machine := r.machine(r.CA, host.Node(), key)
		csr, err := machine.NextCSR()
		r.must(err)
		proof, err := machine.Prove(csr)
		r.must(err)
		return proof
	}
	proof, other := prove(key), prove(newKey(t))
	for n := range 8 {
		r.replace(fmt.Sprint(n), time.Now().Add(time.Hour))
		r.follow()
	}
	if node, err := r.voter().VerifyProof(t.Context(), proof); err != nil || node != host.Node() {
		t.Errorf("after 8 replacements: %v, %v", node, err)
	}
	r.replace("8", time.Now().Add(time.Hour))
	r.follow()
	_, err = r.voter().VerifyProof(t.Context(), proof)
	if told := fault.Of(err); !errors.Is(err, fault.BadProof) || !strings.Contains(err.Error(), "more than 8 times") || !strings.Contains(told.Remedy, "join it with a new token") {
		t.Errorf("after 9 replacements: %v, remedy %q", err, fault.Of(err).Remedy)
	}
	if _, err := r.voter().VerifyProof(t.Context(), other); !errors.Is(err, fault.BadProof) || strings.Contains(err.Error(), "more than 8 times") {
		t.Errorf("with another key: %v", err)
	}
	r.must(identity.NewHosts(r.Store).Expel(t.Context(), "host1"))
	if node, err := r.voter().VerifyProof(t.Context(), proof); err != nil || node != host.Node() {
		t.Errorf("who was removed does not learn it: %v, %v", node, err)
	}
	if _, err := r.voter().SignRenewal(t.Context(), proof); !errors.Is(err, fault.Expelled) {
		t.Errorf("who was removed gets a certificate, or is not told: %v", err)
	}
}

// A former CA is known by what the one after it says, and not by what it has signed itself: anybody
// can sign a certificate for the public key of the mesh's CA.
func TestAMemberIsNoFormerCA(t *testing.T) {
	r := newRotating(t)
	listed, _, _, err := r.voter().IssueClient(t.Context(), identity.ClientRequest{Key: &newKey(t).PublicKey, Host: "host1"})
	r.must(err)
	genuine, err := identity.ParseCertificates(listed)
	r.must(err)
	r.replace("one", time.Now().Add(time.Hour))
	r.replace("two", time.Now().Add(time.Hour))
	r.follow()
	own, link := r.foreignLink()
	write(r, identity.KeyCA, func(rec *identity.CARecord) {
		former := identity.FormerCA{Certificate: own.CertificatePEM(), Successor: link, Until: time.Now().Add(time.Hour)}
		rec.Former = append([]identity.FormerCA{former}, rec.Former...)
	})
	chain, err := own.IssueClient(&newKey(t).PublicKey, "mallory", []string{identity.AdminOrganization}, time.Hour)
	r.must(err)
	forged, err := identity.ParseCertificates(chain)
	r.must(err)
	former := identity.NewFormerCAs(r.Store, r.First.CABundle)
	verify := func(cert *x509.Certificate) error {
		_, err := cert.Verify(x509.VerifyOptions{Roots: former.AddTo(r.First.Roots()), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		return err
	}
	if verify(forged[0]) == nil {
		t.Error("a member that has written its own CA among the former ones is an administrator")
	}
	if of, err := former.Check(genuine[0]); !of || err != nil || verify(genuine[0]) != nil {
		t.Errorf("a certificate of the first CA after two replacements: %v, %v, %v", of, err, verify(genuine[0]))
	}
}

// foreignLink returns a CA of somebody, and the key of the CA that signs as that one signs it.
func (r *rotating) foreignLink() (*identity.CA, []byte) {
	r.t.Helper()
	own, err := identity.NewCA(r.First.MeshID())
	r.must(err)
	keyPEM, err := own.KeyPEM()
	r.must(err)
	key, err := identity.ParseKey(keyPEM)
	r.must(err)
	signing := r.signing.Certificate()
	link := &x509.Certificate{
		SerialNumber: big.NewInt(1), RawSubject: signing.RawSubject, SubjectKeyId: signing.SubjectKeyId, NotBefore: signing.NotBefore, NotAfter: signing.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, link, own.Certificate(), signing.PublicKey, key)
	r.must(err)
	return own, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// No former CA is good for anything for longer than the certificate is by which it vouches for the
// next one, whatever time a member writes.
func TestTheTimeOfAFormerCAIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRotating(t)
		cert := r.Admin(t, 365*24*time.Hour).Leaf // of the first CA
		r.replace("one", time.Now().Add(time.Hour))
		r.follow()
		write(r, identity.KeyCA, func(rec *identity.CARecord) { rec.Former[0].Until = time.Now().Add(10 * 365 * 24 * time.Hour) })
		former := identity.NewFormerCAs(r.Store, r.First.CABundle)
		if of, err := former.Check(cert); !of || err != nil {
			t.Errorf("now: %v, %v", of, err)
		}
		time.Sleep(100 * 24 * time.Hour)
		if _, err := former.Check(cert); !errors.Is(err, fault.Unauthorized) {
			t.Errorf("after 100 days: %v", err)
		}
	})
}

// The voters sign for no key under the name of a voter but the one that they have signed themselves.
func TestNoVoterGetsAnotherKey(t *testing.T) {
	r := newRotating(t)
	key := newKey(t)
	pin, err := identity.PinOfKey(&key.PublicKey)
	r.must(err)
	genuine := r.First.KeyPin()
	host := write(r, identity.HostKey("host1"), func(rec *identity.HostRecord) { rec.KeyPin, rec.KeyKept = pin.String(), true })
	signer := r.voter().WithVoterKeys(func(node identity.Node, key identity.Pin) bool { return node == host.Node() && key != genuine })
	csr, err := identity.NewCSR(key, "host1")
	r.must(err)
	if _, err := signer.RenewHost(t.Context(), host.Node(), csr); !errors.Is(err, fault.Forbidden) {
		t.Errorf("renewal for the key in the record of a voter: %v", err)
	}
}

// Who joins, and whose certificate is renewed, is told of the CAs that the one that signs trusts.
func TestAMembersCAIsGivenToNobody(t *testing.T) {
	r := newRotating(t)
	own, err := identity.NewCA(r.First.MeshID())
	r.must(err)
	write(r, identity.KeyCA, func(rec *identity.CARecord) { rec.Bundle = append(rec.Bundle, own.CertificatePEM()...) })
	csr, err := r.First.NextCSR()
	r.must(err)
	issued, err := r.voter().RenewHost(t.Context(), r.First.Node(), csr)
	if err != nil || identity.TrustFingerprint(issued.CABundle) != identity.TrustFingerprint(r.CA.CertificatePEM()) {
		t.Errorf("it is told of %d CAs: %v", len(pinsIn(t, issued.CABundle)), err)
	}
	write(r, identity.KeyCA, func(rec *identity.CARecord) { rec.Certificate = own.CertificatePEM() })
	r.must(keep(r.First, own)) // however it came there
	if _, err := r.voter().RenewHost(t.Context(), r.First.Node(), csr); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a voter signs with a CA that it does not trust: %v", err)
	}
}
