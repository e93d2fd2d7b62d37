package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
)

// shiftedBy returns the certificate chain that a host whose clock differs by so much has
// signed for a key.
func (m mesh) shiftedBy(t *testing.T, key *ecdsa.PublicKey, ahead time.Duration) identity.Issued {
	t.Helper()
	chain, err := m.CA.IssueNode(key, m.First.Node(), nil, identity.DefaultNodeLifetime)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := m.CA.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	caKey, err := identity.ParseKey(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	leaf := *certs[0]
	leaf.NotBefore, leaf.NotAfter = leaf.NotBefore.Add(ahead), leaf.NotAfter.Add(ahead)
	der, err := x509.CreateCertificate(rand.Reader, &leaf, m.CA.Certificate(), key, caKey)
	if err != nil {
		t.Fatal(err)
	}
	shifted, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Issued{Chain: identity.EncodeCertificates(shifted, certs[1]), CABundle: m.CA.CertificatePEM()}
}

// installShifted makes the certificate of the first host one that a clock signed that was
// ahead.
func (m mesh) installShifted(t *testing.T, ahead time.Duration) {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.First.Install(key, m.shiftedBy(t, &key.PublicKey, ahead)); err != nil {
		t.Fatal(err)
	}
}

// A host whose clock was days ahead has signed for itself, as nobody took its certificate.
// Then its clock is set right, while its agent runs or before its next start: the certificate
// is not valid yet, for nobody, and must not stay so until the others' clocks are there too.
func TestACertificateOfAClockThatWasAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		time.Sleep(72 * time.Hour) // the CA is older
		for ahead, want := range map[time.Duration]bool{
			48 * time.Hour: true, 20 * time.Hour: true, 7 * time.Hour: false, 0: false, -23 * time.Hour: false, -25 * time.Hour: true,
		} {
			m.installShifted(t, ahead)
			if got := m.First.MustRenew(); got != want {
				t.Errorf("signed by a clock that was %s ahead: must be renewed is %v", ahead, got)
			}
		}
		// One that is valid for a week is not backdated by a week.
		if long := m.Host(t, "host7", 7*24*time.Hour); long.MustRenew() {
			t.Error("a certificate of a week must be renewed at once")
		}
		m.installShifted(t, 48*time.Hour)
		// The mesh can be asked with it, although it is not valid yet.
		proof, err := m.First.Prove([]byte("csr"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.signer.VerifyProof(t.Context(), proof); err != nil {
			t.Errorf("the others refuse to sign: %v", err)
		}
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity, cfg.Issuers = m.First, []identity.Issuer{m.signer.For(m.First.Node())}
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Shutdown()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if leaf := m.First.Leaf(); m.First.MustRenew() || time.Now().Before(leaf.NotBefore) {
			t.Errorf("two minutes on, its certificate is valid from %s", leaf.NotBefore)
		}
	})
}

// Where the clock that signs is the one that is ahead, renewing again helps nobody.
func TestASignerWhoseClockIsAheadIsAskedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		var signed atomic.Int64
		cfg := identity.DefaultRenewerConfig()
		cfg.Identity = m.First
		cfg.Issuers = []identity.Issuer{identity.IssuerFunc(func(_ context.Context, csr []byte) (identity.Issued, error) {
			signed.Add(1)
			key, err := identity.ParseCSR(csr)
			if err != nil {
				return identity.Issued{}, err
			}
			return m.shiftedBy(t, key, 20*time.Hour), nil
		})}
		m.installShifted(t, 20*time.Hour)
		r, err := identity.NewRenewer(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Shutdown()
		time.Sleep(10 * time.Hour)
		synctest.Wait()
		if n := signed.Load(); n < 1 || n > 61 {
			t.Errorf("renewed %d times in ten hours", n)
		}
	})
}

// Before a time server has answered, the clock of a host may begin in 1970. What it signs then
// would end before it begins, and take the place of a good certificate.
func TestAClockBeforeTheCASignsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(identity.CALifetime + time.Hour) // as far off as 1970, on the other side
		if _, err := m.CA.IssueNode(&key.PublicKey, m.First.Node(), nil, time.Hour); err == nil || !strings.Contains(err.Error(), "the clock of this host") {
			t.Errorf("signed for a host: %v", err)
		}
		if _, err := m.CA.IssueClient(&key.PublicKey, "user", nil, time.Hour); err == nil || !strings.Contains(err.Error(), "the clock of this host") {
			t.Errorf("signed for a user: %v", err)
		}
	})
}
