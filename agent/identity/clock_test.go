package identity_test

import (
	"crypto/x509"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
)

// The clocks of two hosts may differ by hours: each takes for valid what the other has just
// signed, and what it has from before.
func TestCertificatesOfHostsWhoseClocksDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, err := identity.NewCA("mesh")
		if err != nil {
			t.Fatal(err)
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca.Certificate())
		key, err := identity.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		for _, age := range []time.Duration{0, 20 * time.Hour, 100 * time.Hour} {
			time.Sleep(age)
			chain, err := ca.IssueNode(&key.PublicKey, identity.NewNode("host1"), nil, identity.DefaultNodeLifetime)
			if err != nil {
				t.Fatal(err)
			}
			certs, err := identity.ParseCertificates(chain)
			if err != nil {
				t.Fatal(err)
			}
			for _, ahead := range []time.Duration{-23 * time.Hour, -time.Hour, -2 * time.Minute, 0, 7 * time.Hour, 23 * time.Hour} {
				if _, err := identity.VerifyNode(certs, roots, time.Now().Add(ahead), x509.ExtKeyUsageServerAuth); err != nil {
					t.Errorf("a host whose clock is ahead by %s, in a mesh that is %s old: %v", ahead, age, err)
				}
			}
			if _, err := identity.VerifyNode(certs, roots, time.Now().Add(25*time.Hour), x509.ExtKeyUsageServerAuth); err == nil {
				t.Error("a certificate of 24 hours is valid after 25")
			}
		}
	})
}
