package manifest

import (
	"errors"
	"fmt"
	"slices"

	"virtmesh/agent/identity"
)

// Why a manifest does not follow another one.
var (
	// ErrUnsigned: no majority of the voters has signed it.
	ErrUnsigned = errors.New("no majority of the voters before has signed it")
	// ErrAnew: it begins anew, so nothing shows who does not hear its mesh that it is the mesh's.
	ErrAnew = errors.New("the mesh has begun its list of voters anew")
	// ErrGap: it is not the next version.
	ErrGap = errors.New("it is not the next version")
)

// Sign returns the manifest with one more signature. sign is identity.SignFor of a host.
func (s *Signed) Sign(sign func(identity.Purpose, []byte) (key, sum []byte, err error)) (*Signed, error) {
	key, sum, err := sign(identity.ForManifest, s.body)
	if err != nil {
		return nil, fmt.Errorf("sign manifest: %w", err)
	}
	signed := *s
	signed.signatures = append(slices.Clone(s.signatures), Signature{Key: key, Sum: sum})
	return &signed, nil
}

// SignedBy returns those of some voters who have signed.
func (s *Signed) SignedBy(voters []Voter) (signers []Voter) {
	pins := map[string]bool{}
	for _, sig := range s.signatures {
		if pin, err := identity.VerifyFor(identity.ForManifest, s.body, sig.Key, sig.Sum); err == nil {
			pins[pin.String()] = true
		}
	}
	for _, v := range voters {
		if pins[v.KeyPin] {
			signers = append(signers, v)
		}
	}
	return signers
}

// IsSignedBy returns ErrUnsigned unless more than half of some voters have signed.
func (s *Signed) IsSignedBy(voters []Voter) error {
	if signers := s.SignedBy(voters); 2*len(signers) <= len(voters) || len(voters) == 0 {
		return fmt.Errorf("version %d: %w: %d of %d", s.manifest.Version, ErrUnsigned, len(signers), len(voters))
	}
	return nil
}

// Follows returns why a manifest is not the verified next version of another one, nil if it is.
func (s *Signed) Follows(before *Signed) error {
	m, b := s.manifest, before.manifest
	switch {
	case m.MeshID != b.MeshID:
		return fmt.Errorf("version %d: it is of another mesh", m.Version)
	case m.Version != b.Version+1:
		return fmt.Errorf("version %d after %d: %w", m.Version, b.Version, ErrGap)
	case m.Anew:
		return fmt.Errorf("version %d: %w", m.Version, ErrAnew)
	case m.Previous != before.Hash():
		return fmt.Errorf("version %d: it follows another version %d", m.Version, b.Version)
	}
	return s.IsSignedBy(b.Voters)
}

// Begins returns why a manifest is not one with which a chain begins, nil if it is: it begins
// anew, and a majority of its own voters, and of those whom the caller knows to vote, has
// signed it.
func (s *Signed) Begins(known []Voter) error {
	if !s.manifest.Anew {
		return fmt.Errorf("version %d: it does not begin a chain", s.manifest.Version)
	}
	return errors.Join(s.IsSignedBy(s.manifest.Voters), s.IsSignedBy(known))
}

// Forward follows a chain from a verified manifest as far as it can be verified, and returns
// the last verified one. list is in the order of versions; those up to from's are skipped. The
// error says why it ends before the end of the list.
func Forward(from *Signed, list []*Signed) (*Signed, error) {
	for _, next := range list {
		if next.manifest.Version <= from.manifest.Version {
			continue
		}
		if err := next.Follows(from); err != nil {
			return from, err
		}
		from = next
	}
	return from, nil
}
