package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"virtmesh/storage/durable"
)

// Trust returns the CA certificates that this host trusts, PEM, and the version of this trust:
// the Generation of the CARecord that it comes from.
func (i *Identity) Trust() (bundle []byte, generation uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return bytes.Clone(i.current.Load().bundle), i.trustGeneration
}

// KeepTrust replaces the CAs that this host trusts, on disk and in memory; every handshake from
// then on is judged by them. It reports whether they or their version were other ones. The
// host's certificate stays, also if none of these CAs has signed it: it brings its own CA along.
func (i *Identity) KeepTrust(bundle []byte, generation uint64) (changed bool, err error) {
	roots, err := NewPool(bundle)
	if err != nil {
		return false, fmt.Errorf("keep the CAs to trust: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := i.current.Load(); !bytes.Equal(bundle, now.bundle) {
		// The CAs come first: if the host stops between the two writes, it has the new ones as
		// an older version, and takes them once more.
		if err := durable.WriteFile(i.path(fileBundle), bundle, 0o600); err != nil {
			return false, fmt.Errorf("keep the CAs to trust: %w", err)
		}
		next := *now
		next.bundle, next.roots = bytes.Clone(bundle), roots
		i.current.Store(&next)
		changed = true
	}
	if generation == i.trustGeneration {
		return changed, nil
	}
	info := i.infoNow()
	info.TrustGeneration = generation
	if err := i.writeInfo(info); err != nil {
		return changed, fmt.Errorf("keep the version of the CAs to trust: %w", err)
	}
	i.trustGeneration = generation
	return true, nil
}

// Install makes a new certificate for key the identity of this host: it writes the
// certificate to disk and then uses it in every new handshake. It refuses a chain that
// does not name this host, is not for key or is not signed by a CA that the host trusts; the
// old certificate then stays in use. Who signs says which CAs the mesh trusts, too, but a host
// does not learn that from whoever renews its certificate: it follows the mesh's state, see
// KeepTrust.
func (i *Identity) Install(key *ecdsa.PrivateKey, issued Issued) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	m, err := newMaterial(i.Node(), key, issued.Chain, i.current.Load().bundle)
	if err == nil {
		err = m.checkTrusted()
	}
	if err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	keyPEM, err := EncodeKey(key)
	if err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	if err := durable.WriteFile(i.path(fileNode), nodePEM(keyPEM, issued.Chain), 0o600); err != nil {
		return fmt.Errorf("install certificate: %w", err)
	}
	i.current.Store(m)
	return nil
}

// checkTrusted returns an error unless a CA of the bundle has signed the certificate.
func (m *material) checkTrusted() error {
	if _, err := VerifyNode([]*x509.Certificate{m.cert.Leaf}, m.roots, m.cert.Leaf.NotBefore, x509.ExtKeyUsageServerAuth); err != nil {
		return fmt.Errorf("host certificate: %w", err)
	}
	return nil
}

// IsTrusted reports whether a CA that this host trusts has signed its certificate. The certificate
// may have ended.
func (i *Identity) IsTrusted() bool { return i.current.Load().checkTrusted() == nil }

// SignedBy returns the pin of the CA that signed this host's certificate.
func (i *Identity) SignedBy() Pin { return i.current.Load().signer }

// shownSuccessors returns what this host shows that leads from former CAs to the one with a pin,
// if that one has signed for it.
func (i *Identity) shownSuccessors(ca Pin) []*x509.Certificate {
	m := i.current.Load()
	certs, err := ParseCertificates(m.chain())
	if err != nil || m.signer != ca || len(certs) < 3 || PinOf(certs[1]) != ca {
		return nil
	}
	now := time.Now()
	return slices.DeleteFunc(certs[2:], func(link *x509.Certificate) bool { return !isCA(link) || now.After(link.NotAfter) })
}

// TrustFingerprint returns a name of a set of CA certificates (PEM), the same for the same CAs
// in any order; "" if they cannot be read. Hosts tell each other by it which CAs they trust.
func TrustFingerprint(bundle []byte) string {
	certs, err := ParseCertificates(bundle)
	if err != nil {
		return ""
	}
	pins := make([]string, len(certs))
	for n, cert := range certs {
		pins[n] = PinOf(cert).String()
	}
	slices.Sort(pins)
	sum := sha256.New()
	for _, pin := range slices.Compact(pins) {
		sum.Write([]byte(pin + "\n"))
	}
	return hex.EncodeToString(sum.Sum(nil)[:16])
}

// pinsOf returns the pins of CA certificates, PEM, each once; none if they cannot be read.
func pinsOf(bundle []byte) []Pin {
	certs, err := ParseCertificates(bundle)
	if err != nil {
		return nil
	}
	var pins []Pin
	for _, cert := range certs {
		if pin := PinOf(cert); !slices.Contains(pins, pin) {
			pins = append(pins, pin)
		}
	}
	return pins
}

// FormerCA is a CA that signed for the mesh before, and that nobody trusts any more.
type FormerCA struct {
	// Certificate is the CA, PEM.
	Certificate []byte `json:"certificate"`
	// Successor is the CA after it, signed by it, PEM, with which clients that know only the
	// former CA verify the servers; empty if there is none.
	Successor []byte `json:"successor,omitempty"`
	// Ended is when it ceased to sign.
	Ended time.Time `json:"ended"`
	// Until is when the last exceptions end: until then a host that kept its key gets a
	// certificate of the present CA for one of this, and listed certificates of administrators
	// are taken.
	Until time.Time `json:"until"`
}
