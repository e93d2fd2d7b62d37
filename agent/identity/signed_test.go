package identity

import (
	"crypto/x509"
	"testing"
	"time"
)

// What this version signs was signed in the middle of its time. What an older version
// signed, valid from a minute before, is taken for younger, and still renewed hours before it
// ends.
func TestWhenACertificateWasSigned(t *testing.T) {
	ca, err := NewCA("mesh")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, lifetime := range []time.Duration{time.Minute, DefaultNodeLifetime} {
		leaf := ca.leafTemplate("x", nil, lifetime)
		if at, life := signedAt(leaf); at.Sub(now).Abs() > 5*time.Second || (life-lifetime).Abs() > 5*time.Second {
			t.Errorf("a certificate that is signed now for %s seems signed at %s for %s, now is %s", lifetime, at, life, now)
		}
	}
	at, life := signedAt(&x509.Certificate{NotBefore: now.Add(-time.Minute), NotAfter: now.Add(DefaultNodeLifetime)})
	if due := at.Add(life * 2 / 3).Sub(now); due < 12*time.Hour || due > 21*time.Hour {
		t.Errorf("a certificate of an older version is renewed after %s", due)
	}
}
