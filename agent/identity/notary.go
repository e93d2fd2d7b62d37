package identity

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"virtmesh/raftstore"
)

// notaryContext is signed together with the message, so that the signature cannot be used
// for anything else.
const notaryContext = "virtmesh signature v1\x00"

// maxSignature bounds what is read of a signature that another host sent.
const maxSignature = 16 << 10

// Notary signs messages as this host, and verifies those of other hosts. Each signature
// contains the certificate of its host, so nobody has to know the others' keys. It is safe
// for concurrent use.
type Notary struct {
	identity *Identity
	member   func(Node, Pin) error
}

var _ raftstore.Signer = (*Notary)(nil)

// NewNotary returns the Notary of a host. member returns an error for a machine that is no
// member any more, or does not have its host's key: its certificate may be valid all the
// same.
func NewNotary(id *Identity, member func(Node, Pin) error) *Notary { return &Notary{id, member} }

// signature is a signature as it travels.
type signature struct {
	// Certificate is the host's, in DER.
	Certificate []byte `json:"certificate"`
	Sum         []byte `json:"sum"`
}

func notaryDigest(message []byte) []byte {
	h := sha256.New()
	h.Write([]byte(notaryContext))
	h.Write(message)
	return h.Sum(nil)
}

// Sign implements raftstore.Signer.
func (n *Notary) Sign(message []byte) ([]byte, error) {
	m := n.identity.current.Load()
	sum, err := ecdsa.SignASN1(rand.Reader, m.key(), notaryDigest(message))
	if err != nil {
		return nil, fmt.Errorf("sign as %s: %w", n.identity.Host(), err)
	}
	return json.Marshal(signature{Certificate: m.cert.Leaf.Raw, Sum: sum})
}

// Verify implements raftstore.Signer: it returns the name of the host.
func (n *Notary) Verify(message, signed []byte) (string, error) {
	if len(signed) > maxSignature {
		return "", fmt.Errorf("signature of %d bytes", len(signed))
	}
	var sig signature
	if err := json.Unmarshal(signed, &sig); err != nil {
		return "", fmt.Errorf("read signature: %w", err)
	}
	cert, err := x509.ParseCertificate(sig.Certificate)
	if err != nil {
		return "", fmt.Errorf("read the certificate of a signature: %w", err)
	}
	node, err := VerifyNode([]*x509.Certificate{cert}, n.identity.Roots(), time.Now(), x509.ExtKeyUsageClientAuth)
	if err != nil {
		return "", err
	}
	pub, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(pub, notaryDigest(message), sig.Sum) {
		return "", fmt.Errorf("signature of %s: %w", node, errBadSignature)
	}
	if err := n.member(node, PinOf(cert)); err != nil {
		return "", fmt.Errorf("signature of %s: %w", node, err)
	}
	return node.Name, nil
}

var errBadSignature = errors.New("it does not fit the message")
