package identity

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// FormerCAs judges certificates of people by the CA that signed them, as this host's copy of the
// state has the CAs. One of a former CA is taken until that CA's time ends, and only if the mesh
// has listed it: whoever stole the key of the CA can make others. Its methods may be called
// concurrently, and do not block.
type FormerCAs struct {
	store Store
	// trust returns the CAs that this host trusts; nil: those in the record.
	trust func() []byte

	mu      sync.Mutex
	value   []byte // of the record that was read
	bundle  []byte // what trust returned then
	trusted []*x509.Certificate
	former  []formerCA
	// signers has the place in former of the CA that signed a certificate, trustedSigner for a
	// CA that is trusted.
	signers map[[sha256.Size]byte]int
}

type formerCA struct {
	cert  *x509.Certificate
	until time.Time
}

const (
	trustedSigner = -1
	unknownSigner = -2
	// maxKnownSigners bounds what is remembered of certificates that were judged.
	maxKnownSigners = 4096
)

// NewFormerCAs returns the former CAs in a store of which the CAs that this host trusts (PEM) say
// that they took their place. trust must not block; nil: the CAs in the store are believed.
func NewFormerCAs(store Store, trust func() []byte) *FormerCAs {
	return &FormerCAs{store: store, trust: trust}
}

// AddTo returns the CAs with which certificates of people are verified now: those of a pool, and
// the former ones whose time has not ended.
func (f *FormerCAs) AddTo(roots *x509.CertPool) *x509.CertPool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil {
		return roots
	}
	pool, added := roots, false
	for _, ca := range f.former {
		if !time.Now().Before(ca.until) {
			continue
		}
		if !added {
			pool, added = roots.Clone(), true
		}
		pool.AddCert(ca.cert)
	}
	return pool
}

// Check reports whether a former CA signed a verified certificate. It returns a
// fault.Unauthorized if that CA's time has ended, or if the mesh has forgotten it.
func (f *FormerCAs) Check(cert *x509.Certificate) (former bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.read(); err != nil || len(f.former) == 0 {
		return false, nil // the mesh has had one CA as far as this host knows
	}
	switch n := f.signer(cert); {
	case n == trustedSigner:
		return false, nil
	case n == unknownSigner:
		return true, fault.New(fault.Unauthorized, "no CA of the mesh has signed the certificate of %s", cert.Subject.CommonName).WithRemedy(newCertificateRemedy)
	case !time.Now().Before(f.former[n].until):
		return true, fault.New(fault.Unauthorized, "the CA that signed the certificate of %s was replaced, and its certificates were taken until %s",
			cert.Subject.CommonName, f.former[n].until.Format(time.RFC3339)).WithRemedy(newCertificateRemedy)
	}
	return true, nil
}

// signer finds which CA signed a certificate. The caller holds f.mu.
func (f *FormerCAs) signer(cert *x509.Certificate) int {
	sum := sha256.Sum256(cert.Raw)
	if n, ok := f.signers[sum]; ok {
		return n
	}
	n := unknownSigner
	if signerOf(cert, f.trusted) != nil {
		n = trustedSigner
	} else if at := slices.IndexFunc(f.former, func(ca formerCA) bool { return cert.CheckSignatureFrom(ca.cert) == nil }); at >= 0 {
		n = at
	}
	if f.signers == nil || len(f.signers) >= maxKnownSigners {
		f.signers = map[[sha256.Size]byte]int{}
	}
	f.signers[sum] = n
	return n
}

// read reads the record again if it, or what this host trusts, has changed. The caller holds f.mu.
func (f *FormerCAs) read() error {
	stored, _, err := f.store.Get(context.Background(), KeyCA, raftstore.ReadOptions{Consistency: raftstore.Local})
	var bundle []byte
	if f.trust != nil {
		bundle = f.trust()
	}
	if err != nil || bytes.Equal(stored.Value, f.value) && bytes.Equal(bundle, f.bundle) {
		return err
	}
	var rec CARecord
	if err := json.Unmarshal(stored.Value, &rec); err != nil {
		return fmt.Errorf("read %s: %w", KeyCA, err)
	}
	vouching := bundle
	if f.trust == nil {
		vouching = rec.Bundle
	}
	trusted, err := ParseCertificates(vouching)
	if err != nil {
		return fmt.Errorf("read %s: %w", KeyCA, err)
	}
	var former []formerCA
	for _, ca := range rec.vouchedFormer(vouching) {
		certs, err := ParseCertificates(ca.Certificate)
		if err != nil {
			return fmt.Errorf("read %s: %w", KeyCA, err)
		}
		former = append(former, formerCA{certs[0], ca.Until})
	}
	f.value, f.bundle, f.trusted, f.former, f.signers = stored.Value, bundle, trusted, former, nil
	return nil
}

// MustBeListed returns a fault.Unauthorized unless this host's copy of the state lists a person's
// certificate as one that may be used.
func (c *Clients) MustBeListed(cert *x509.Certificate) error {
	err := c.checkListed(context.Background(), cert, raftstore.ReadOptions{Consistency: raftstore.Local})
	if errors.Is(err, fault.NotFound) {
		return fault.New(fault.Unauthorized, "%w", &unlistedError{KeyHash(PinOf(cert))}).WithRemedy(newCertificateRemedy)
	}
	return err
}
