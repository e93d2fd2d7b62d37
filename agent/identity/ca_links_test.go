package identity_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"virtmesh/agent/identity"
)

// selfSigned returns a CA (PEM) that somebody made of a key of his own.
func selfSigned(t testing.TB, key *ecdsa.PrivateKey, ca x509.Certificate) []byte {
	t.Helper()
	ca.SerialNumber, ca.NotBefore, ca.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, &ca, &ca, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity.EncodeCertificates(cert)
}

// earlierCA returns a CA as versions before level.Succession made them.
func (r *rotating) earlierCA() *identity.CA {
	r.t.Helper()
	key, err := identity.NewKey()
	r.must(err)
	keyPEM, err := identity.EncodeKey(key)
	r.must(err)
	ca, err := identity.ParseCA(selfSigned(r.t, key, x509.Certificate{Subject: pkix.Name{CommonName: "virtmesh CA old"}, MaxPathLenZero: true}), keyPEM)
	r.must(err)
	return ca
}

// A member has a certificate of the mesh's CA for its own key. That makes that key no CA's, and
// neither does the certificate of an administrator.
func TestAHostVouchesForNoCA(t *testing.T) {
	r := newRotating(t)
	key := newKey(t)
	ofHost, err := r.CA.IssueNode(&key.PublicKey, identity.NewNode("host9"), nil, time.Hour)
	r.must(err)
	ofPerson, err := r.CA.IssueClient(&key.PublicKey, "ada", []string{identity.AdminOrganization}, time.Hour)
	r.must(err)
	own := selfSigned(t, key, x509.Certificate{Subject: pkix.Name{CommonName: "virtmesh CA mine"}})
	for whose, chain := range map[string][]byte{"host": ofHost, "person": ofPerson} {
		certs, err := identity.ParseCertificates(chain)
		r.must(err)
		link, rec := identity.EncodeCertificates(certs[0]), r.record()
		rec.Bundle = append(rec.Bundle, own...)
		for where, rec := range map[string]identity.CARecord{
			"successor": {Bundle: rec.Bundle, Successor: link},
			"former":    {Bundle: rec.Bundle, Former: []identity.FormerCA{{Certificate: r.CA.CertificatePEM(), Successor: link}}},
		} {
			if err := rec.CheckVouched(r.CA.CertificatePEM()); err == nil {
				t.Errorf("with its certificate as %s a %s makes every host trust a CA of its own", where, whose)
			}
		}
	}
}

// A member writes a CA of its own as the next one, with whatever it can have signed. No voter takes
// its key, and it does not become the mesh's.
func TestTheNextCAIsMadeWithTheKeyOfTheOneThatSigns(t *testing.T) {
	r := newRotating(t)
	r.must(identity.WantCA(t.Context(), r.Store, "one"))
	r.must(r.note("one"))
	genuine := r.record()
	if err := genuine.CheckNext(r.CA.CertificatePEM()); err != nil {
		t.Errorf("the genuine one: %v", err)
	}
	own, err := identity.NewCA(r.First.MeshID())
	r.must(err)
	after, link, err := own.NewSuccessor(r.First.MeshID())
	r.must(err)
	for what, rec := range map[string]identity.CARecord{
		"with the genuine link":     {Certificate: genuine.Certificate, Next: own.CertificatePEM(), Successor: genuine.Successor},
		"with a link of its own":    {Certificate: genuine.Certificate, Next: after.CertificatePEM(), Successor: link},
		"after a CA of its own too": {Certificate: own.CertificatePEM(), Next: after.CertificatePEM(), Successor: link},
	} {
		if err := rec.CheckNext(r.CA.CertificatePEM()); err == nil {
			t.Errorf("a member's CA becomes the next one %s", what)
		}
	}
}

// A host that signs for itself, because nobody answers, is known to clients that know only a former
// CA, as before.
func TestOldKubeconfigsKnowAHostThatSignsForItself(t *testing.T) {
	r := newRotating(t)
	r.replace("one", time.Now().Add(time.Hour))
	r.follow()
	r.must(keep(r.First, r.signing))
	csr, err := r.First.NextCSR()
	r.must(err)
	key, ok := r.First.Certificate().PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatal("the key of host1 is of another kind")
	}
	r.must(r.First.Install(key, identity.Issued{Chain: r.issue(t, "host1")}))
	issued, err := identity.SelfIssuer(r.First, nil, 0).IssueNode(t.Context(), csr)
	r.must(err)
	if err := r.knowsServers(r.CA.Certificate(), issued.Chain); err != nil {
		t.Error(err)
	}
}
