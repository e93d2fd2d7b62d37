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
}

// checkStanding checks which host asks what has become of it.
func (s *Server) checkStanding(ctx context.Context, body []byte, _ string) (request, error) {
	_, node, err := s.readProof(ctx, body)
	if err != nil {
		return request{}, err
	}
	return request{s.renewals, func(ctx context.Context) (any, error) {
		expelled, err := s.cfg.Signer.Expelled(ctx, node)
		return standing{Expelled: expelled}, err
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
}

// AskStanding asks the host at addr whether its mesh has expelled this one, whose program has
// the given version. Who answered has shown a certificate of this host's mesh. Every other
// answer, and none, is an error. It works when this host's certificate has ended.
func AskStanding(ctx context.Context, id *identity.Identity, version, addr string) (Standing, error) {
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
		by, err := identity.VerifyNode(chain, id.Roots(), time.Now(), x509.ExtKeyUsageServerAuth)
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
	told.Expelled = answer.Expelled
	return told, nil
}
