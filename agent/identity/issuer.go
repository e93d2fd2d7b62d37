package identity

import (
	"context"
	"fmt"
	"time"
)

// Issued is the answer to a signing request.
type Issued struct {
	// Chain is the certificate and its CA, PEM.
	Chain []byte `json:"chain"`
	// CABundle is every CA certificate that hosts trust, PEM, for who has no trust yet.
	CABundle []byte `json:"caBundle"`
}

// Issuer signs the certificate of this host. Signer implements it with the local
// replica of the store; package agent/port/enrol implements it with renewal calls to
// other members.
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

// SelfIssuer returns the Issuer that signs with the copy of the CA key in this host's
// keyring; on a host that holds none it returns ErrNoCAKey. It is the last resort. If every host of a mesh was off until its
// certificate expired, no two hosts can connect, so there is no quorum; and a replica
// may need a quorum before it can even read the CA. names are the names and addresses
// for the certificate (see NodeSANs), taken from the host's current configuration. A
// lifetime of zero stands for DefaultNodeLifetime.
func SelfIssuer(id *Identity, names []string, lifetime time.Duration) Issuer {
	if lifetime <= 0 {
		lifetime = DefaultNodeLifetime
	}
	return IssuerFunc(func(_ context.Context, csr []byte) (Issued, error) {
		ca, err := id.signingCA()
		if err != nil {
			return Issued{}, err
		}
		pub, err := ParseCSR(csr)
		if err != nil {
			return Issued{}, err
		}
		ca.successors = id.shownSuccessors(ca.Pin())
		chain, err := ca.IssueNode(pub, id.Node(), names, lifetime)
		if err != nil {
			return Issued{}, fmt.Errorf("sign for itself: %w", err)
		}
		return Issued{Chain: chain, CABundle: id.CABundle()}, nil
	})
}
