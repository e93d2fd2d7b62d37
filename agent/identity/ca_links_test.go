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
