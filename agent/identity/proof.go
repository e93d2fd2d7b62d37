package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// RenewGrace is how long an expired certificate can still be used to request the next
// one, and how long before it is valid one that a clock that was ahead has signed. A host
// whose record says that it keeps its key can use it for ever: the record, and not the
// certificate, says who has the key. Another host that was off for longer signs for itself,
// if it holds the CA key, or joins again.
const RenewGrace = 30 * 24 * time.Hour

// proofContext is signed together with the request, so that the signature cannot be
// used for anything else.
const proofContext = "virtmesh certificate renewal v1\x00"

// RenewalProof asks for the next certificate of a host. It holds the present
// certificate, a signing request for the next key, and the request's signature by the
// present key. It needs no TLS client certificate, so it also works when the present
// one has expired. An eavesdropper gains nothing by replaying it: the answer is for a
// key that he does not have.
type RenewalProof struct {
	Chain     []byte `json:"chain"`
	CSR       []byte `json:"csr"`
	Signature []byte `json:"signature"`
}

// Prove signs a request (DER) with the present key of this host.
func (i *Identity) Prove(csr []byte) (RenewalProof, error) {
	m := i.current.Load()
	sig, err := ecdsa.SignASN1(rand.Reader, m.key(), proofDigest(csr))
	if err != nil {
		return RenewalProof{}, fmt.Errorf("sign renewal: %w", err)
	}
	return RenewalProof{Chain: m.chain(), CSR: csr, Signature: sig}, nil
}

func proofDigest(csr []byte) []byte {
	h := sha256.New()
	h.Write([]byte(proofContext))
	h.Write(csr)
	return h.Sum(nil)
}

// verifiedNode verifies a proof at the given time and returns the host that made it. keeps
// reports whether a key is known to be that of a host.
func (p RenewalProof) verifiedNode(roots *x509.CertPool, now time.Time, keeps func(Node, Pin) bool) (Node, error) {
	chain, err := ParseCertificates(p.Chain)
	if err != nil {
		return Node{}, fmt.Errorf("%w: %w", fault.BadProof, err)
	}
	leaf := chain[0]
	at := now
	switch {
	case now.After(leaf.NotAfter):
		at = leaf.NotAfter
	case now.Before(leaf.NotBefore) && now.After(leaf.NotBefore.Add(-RenewGrace)):
		at = leaf.NotBefore
	}
	node, err := VerifyNode(chain, roots, at, x509.ExtKeyUsageClientAuth)
	if err != nil {
		return Node{}, fmt.Errorf("%w: %w", fault.BadProof, err)
	}
	if now.After(leaf.NotAfter.Add(RenewGrace)) && !keeps(node, PinOf(leaf)) {
		return Node{}, fmt.Errorf("%w: its certificate ended at %s", fault.BadProof, leaf.NotAfter.Format(time.RFC3339))
	}
	if !p.isSignedBy(leaf) {
		return Node{}, fmt.Errorf("%w: bad signature", fault.BadProof)
	}
	return node, nil
}

// isSignedBy reports whether who made the proof has the key of a certificate.
func (p RenewalProof) isSignedBy(leaf *x509.Certificate) bool {
	pub, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(pub, proofDigest(p.CSR), p.Signature)
}

// VerifyProof returns the host that made a proof. It reads this host's copy only, so that
// it is cheap: whether the host is still a member is checked when its request is signed.
func (s *Signer) VerifyProof(ctx context.Context, p RenewalProof) (Node, error) {
	// The local replica is good enough: the CA of a mesh hardly ever changes, and an
	// outdated record can only make the verification fail.
	rec, _, err := readCA(ctx, s.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return Node{}, err
	}
	trusted := s.trusted(rec)
	roots, err := NewPool(trusted)
	if err != nil {
		return Node{}, err
	}
	keeps := func(node Node, key Pin) bool {
		member, departed := s.keptKey(ctx, node, key)
		return member || departed
	}
	node, err := p.verifiedNode(roots, time.Now(), keeps)
	if err == nil {
		return node, nil
	}
	for _, former := range rec.vouchedFormer(trusted) {
		if node, known := s.verifyFormer(ctx, p, former); known != nil || node != (Node{}) {
			return node, known
		}
	}
	if node, known := s.verifyForgotten(ctx, p, rec); known != nil || node != (Node{}) {
		return node, known
	}
	return Node{}, err
}

// verifyForgotten returns the host that made a proof with a certificate of a CA that the record does
// not have any more: the host was off for more than maxFormerCAs replacements. It is known by its key
// alone, and that is enough only to tell it what to do: whether its CA's time has ended cannot be
// told any more, so a member does not come back by itself, however short the time was. A host that
// was removed learns that. Without an error, the zero Node says that no host has that key, or that
// the record has forgotten no CA.
func (s *Signer) verifyForgotten(ctx context.Context, p RenewalProof, rec CARecord) (Node, error) {
	chain, err := ParseCertificates(p.Chain)
	if err != nil || len(rec.Former) < maxFormerCAs || !p.isSignedBy(chain[0]) {
		return Node{}, nil
	}
	node, err := NodeOf(chain[0])
	if err != nil {
		return Node{}, nil
	}
	switch member, departed := s.keptKey(ctx, node, PinOf(chain[0])); {
	case departed:
		return node, nil
	case member:
		return Node{}, fault.New(fault.BadProof, "%s was off while the mesh's CA was replaced more than %d times, and the mesh does not know the CA any more that signed its certificate", node, maxFormerCAs).
			About(node.Name).WithRemedy(joinAnew(node.Name))
	}
	return Node{}, nil
}

// verifyFormer returns the host that made a proof with a certificate of a former CA. Who has the
// key of that CA can make any certificate, so the host must have the key that the mesh knows. A
// host that was removed is to learn that, however late; a member comes back until the CA's time
// ends. Without an error, the zero Node says that the CA did not sign the certificate.
func (s *Signer) verifyFormer(ctx context.Context, p RenewalProof, former FormerCA) (Node, error) {
	roots, err := NewPool(former.Certificate)
	if err != nil {
		return Node{}, err
	}
	var member, departed bool
	node, err := p.verifiedNode(roots, time.Now(), func(Node, Pin) bool { return true })
	if err != nil {
		return Node{}, nil
	}
	chain, err := ParseCertificates(p.Chain)
	if err == nil {
		member, departed = s.keptKey(ctx, node, PinOf(chain[0]))
	}
	switch {
	case err != nil || !member && !departed:
		return Node{}, fault.New(fault.BadProof, "%s shows a certificate of a CA that the mesh has replaced, and another key than the mesh knows of it", node).About(node.Name).
			WithRemedy(joinAnew(node.Name))
	case member && time.Now().After(former.Until):
		return Node{}, fault.New(fault.BadProof, "%s was off while the mesh's CA was replaced, and could come back by itself until %s", node, former.Until.Format(time.RFC3339)).About(node.Name).
			WithRemedy(joinAnew(node.Name))
	}
	return node, nil
}

// joinAnew is what brings a host back that the mesh cannot recognise any more.
func joinAnew(host string) string {
	return "run 'virtmesh agent leave --local --yes' there, remove the host with 'virtmesh node remove " + host + "', and join it with a new token"
}

// keptKey reports whether a key is that of a member, or of a host that was removed, which keeps
// or kept it, by this host's copy of the state.
func (s *Signer) keptKey(ctx context.Context, node Node, key Pin) (member, departed bool) {
	hosts, local := NewHosts(s.store), raftstore.ReadOptions{Consistency: raftstore.Local}
	host, err := hosts.Get(ctx, node.Name, local)
	if err == nil && host.ID == node.ID {
		return host.KeyKept && host.KeyPin == key.String(), false
	}
	_, mark, err := hosts.departed(ctx, node, local)
	return false, err == nil && mark.KeyPin != "" && mark.KeyPin == key.String()
}
