package enrol

import (
	"context"
	"crypto/x509"
	"net/http"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/port"
)

// standing is the answer to POST /mesh/v1/standing: what the mesh says of the host that asks.
// Versions before do not know the path.
type standing struct {
	// Expelled says that the mesh has expelled the machine, by a linearizable read.
	Expelled bool `json:"expelled"`
	// CABundle is every CA certificate that hosts trust, PEM, and Generation the version of
	// that; see identity.CARecord. Versions before level.Succession do not say.
	CABundle   []byte `json:"caBundle,omitempty"`
	Generation uint64 `json:"generation,omitempty"`
	// Links are CAs as those before them sign them, PEM; see identity.CARecord.Links.
	Links []byte `json:"links,omitempty"`
}

// checkStanding checks which host asks what has become of it.
func (s *Server) checkStanding(ctx context.Context, body []byte, _ string) (request, error) {
	_, node, err := s.readProof(ctx, body)
	if err != nil {
		return request{}, err
	}
	return request{s.renewals, func(ctx context.Context) (any, error) {
		expelled, err := s.cfg.Signer.Expelled(ctx, node)
		if err != nil {
			return nil, err
		}
		ca, err := s.cfg.Signer.CARecord(ctx)
		return standing{Expelled: expelled, CABundle: ca.Bundle, Generation: ca.Generation, Links: ca.Links()}, err
	}}, nil
}

// Standing is what a host says of this one.
type Standing struct {
	// By and Key are of the host that answered, according to its certificate. Who has the
	// CA's key can make one for any host and ID; the key is the one that it really has.
	By  identity.Node
	Key identity.Pin
	// Expelled says that the mesh has expelled this host.
	Expelled bool
	// CABundle is every CA certificate that the hosts of the mesh trust, PEM, and Generation the
	// version of that. Empty if the host does not say.
	CABundle   []byte
	Generation uint64
	// Links are CAs as those before them sign them, PEM: who trusts an earlier one knows by them
	// that the later ones come from it; see identity.CheckLinks.
	Links []byte
}

// AskStanding asks the host at addr whether its mesh has expelled this one, whose program has
// the given version, and which CAs the mesh trusts. Who answered has shown a certificate of a CA
// that this host trusts, or has a key that keeps reports to be that of a member: the CA may have
// been replaced while this host was off. Every other answer, and none, is an error. It works when
// this host's certificate has ended, or is of a CA of before.
func AskStanding(ctx context.Context, id *identity.Identity, version, addr string, keeps Keeps) (Standing, error) {
	key, err := identity.NewKey()
	if err != nil {
		return Standing{}, err
	}
	csr, err := identity.NewCSR(key, id.Host())
	if err != nil {
		return Standing{}, err
	}
	proof, err := id.Prove(csr)
	if err != nil {
		return Standing{}, err
	}
	var told Standing
	c := newCaller(addr, port.NewSpeaker(id.Host(), version), func(chain []*x509.Certificate) error {
		by, err := verifyMember(chain, id, keeps)
		if err == nil {
			told.By, told.Key = by, identity.PinOf(chain[0])
		}
		return err
	})
	defer c.close()
	var answer standing
	if err := c.call(ctx, http.MethodPost, pathStanding, proof, &answer); err != nil {
		return Standing{}, err
	}
	told.Expelled, told.CABundle, told.Generation, told.Links = answer.Expelled, answer.CABundle, answer.Generation, answer.Links
	return told, nil
}

// Keeps reports whether a key is known to be that of a member.
type Keeps func(identity.Node, identity.Pin) bool

// verifyMember returns the host that has shown a chain, leaf first, of which TLS has made sure
// that it has the key of the leaf.
func verifyMember(chain []*x509.Certificate, id *identity.Identity, keeps Keeps) (identity.Node, error) {
	by, err := identity.VerifyNode(chain, id.Roots(), time.Now(), x509.ExtKeyUsageServerAuth)
	if err == nil || len(chain) == 0 || keeps == nil {
		return by, err
	}
	node, nodeErr := identity.NodeOf(chain[0])
	if nodeErr != nil || !keeps(node, identity.PinOf(chain[0])) {
		return by, err
	}
	return node, nil
}
