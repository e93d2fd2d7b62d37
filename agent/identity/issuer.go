package identity

import (
	"context"
)

// Issued is the answer to a signing request.
type Issued struct {
	// Chain is the certificate and its CA, PEM.
	Chain []byte `json:"chain"`
	// CABundle is every CA certificate to trust from now on, PEM.
	CABundle []byte `json:"caBundle"`
}

// Issuer signs the certificate of this host. Signer, on top of the local replica, is
// one; the renewal calls of agent/join, which ask another member, are others.
type Issuer interface {
	// IssueNode returns a certificate for the public key of csr (DER). It may block on
	// the network until ctx ends, and may be called from several goroutines.
	IssueNode(ctx context.Context, csr []byte) (Issued, error)
}

// IssuerFunc makes a function an Issuer.
type IssuerFunc func(ctx context.Context, csr []byte) (Issued, error)

// IssueNode calls f.
func (f IssuerFunc) IssueNode(ctx context.Context, csr []byte) (Issued, error) { return f(ctx, csr) }

var _ Issuer = IssuerFunc(nil)
