package identity

import (
	"slices"

	"virtmesh/agent/fault"
)

// WithTrust returns a Signer that knows hosts, and answers them, by the CAs that this host itself
// trusts (PEM), as trust returns them; it must not block. Any host can write others into the
// record of the CA. Without, it believes the record.
func (s *Signer) WithTrust(trust func() []byte) *Signer {
	careful := *s
	careful.trust = trust
	return &careful
}

// WithVoterKeys returns a Signer that renews no certificate for a machine of which isImpostor says
// that another one has its name and votes, by what the voters themselves have signed: any host can
// write another key into the record of a voter. isImpostor must not block.
func (s *Signer) WithVoterKeys(isImpostor func(Node, Pin) bool) *Signer {
	careful := *s
	careful.isImpostor = isImpostor
	return &careful
}

// trusted returns the CAs (PEM) that are trusted.
func (s *Signer) trusted(rec CARecord) []byte {
	if s.trust == nil {
		return rec.Bundle
	}
	return s.trust()
}

// trustedBy returns what trusted does, for who gets a certificate of the CA that signs, or an error
// if this host does not trust that one: not yet, or nobody has vouched for it.
func (s *Signer) trustedBy(rec CARecord) ([]byte, error) {
	bundle := s.trusted(rec)
	if signing := pinsOf(rec.Certificate); len(signing) == 0 || !slices.Contains(pinsOf(bundle), signing[0]) {
		return nil, fault.New(fault.Unavailable, "this host does not trust the CA that signs by its copy of the mesh's state").
			WithRemedy("it takes a new CA over within seconds, or its log says why it does not")
	}
	return bundle, nil
}

// refuseImpostor returns a fault for a machine that has the name of a voter and not its key.
func (s *Signer) refuseImpostor(node Node, key Pin) error {
	if !s.isImpostor(node, key) {
		return nil
	}
	return fault.New(fault.Forbidden, "%s: another machine has that name and votes, by the list of the mesh's voters", node).About(node.Name)
}
