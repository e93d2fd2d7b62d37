package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

// Authority signs for a host that does not hold the key of the CA. Package
// agent/port/keyring implements it with calls to the voters. Its methods may block on the
// network until ctx ends, and may be called concurrently.
type Authority interface {
	// SignAdmission signs the certificate of a host that was just admitted.
	SignAdmission(ctx context.Context, request AdmissionRequest) (Issued, error)
	// SignRenewal signs the next certificate of the host that made the proof.
	SignRenewal(ctx context.Context, proof RenewalProof) (Issued, error)
	// SignClient signs the certificate of a person whose record is stored.
	SignClient(ctx context.Context, request ClientSigning) (Issued, error)
}

// AdmissionRequest asks for the first certificate of a host.
type AdmissionRequest struct {
	// Host and ID are those of the host's record.
	Host string `json:"host"`
	ID   string `json:"id"`
	// Key is the host's public key, DER. Its pin is that of the host's record.
	Key []byte `json:"key"`
}

// ClientSigning asks for the certificate of a person. Whose it is and how long it is valid says
// the record of its key.
type ClientSigning struct {
	// Key is the person's public key, DER.
	Key []byte `json:"key"`
}

var _ Authority = (*Signer)(nil)

// WithKeyring returns a Signer that takes the key of the CA that signs from held, which knows
// keys by the pins of their CAs, where the replicated store has none. A host that holds none asks voters; nil asks nobody, and returns
// ErrNoCAKey.
func (s *Signer) WithKeyring(held func(Pin) []byte, voters Authority) *Signer {
	keyed := *s
	keyed.held, keyed.voters = held, voters
	return &keyed
}

// passOn reports whether a request goes to a voter, because err is that this host does not
// hold the key.
func (s *Signer) passOn(err error) bool { return s.voters != nil && errors.Is(err, ErrNoCAKey) }

// refuseVotersName returns a fault if a host votes under a name. Who is being admitted cannot
// vote yet, so it is not him; and his certificate would get him the key of the CA. The records
// do not show that: any host can write them. Nobody but the group decides who votes.
func (s *Signer) refuseVotersName(host string) error {
	if !slices.Contains(s.votes(), host) {
		return nil
	}
	return fault.New(fault.HostTaken, "a host with the name %s votes in this mesh", host).About(host).
		WithRemedy("take another name, or remove that host first: 'virtmesh node remove " + host + "'")
}

// SignAdmission implements Authority. It signs only for a key whose pin the record of the
// host has, and for no host that votes: whoever asks cannot get a certificate of a voter.
// Another host's name can be had, since any host can write its record.
func (s *Signer) SignAdmission(ctx context.Context, request AdmissionRequest) (Issued, error) {
	key, err := parsePublicKey(request.Key)
	if err != nil {
		return Issued{}, fault.InField("key", "cannot be read: %w", err)
	}
	ca, bundle, err := s.ca(ctx, raftstore.ReadOptions{})
	if s.passOn(err) {
		return s.voters.SignAdmission(ctx, request)
	}
	if err != nil {
		return Issued{}, fmt.Errorf("sign certificate of %s: %w", request.Host, err)
	}
	if err := s.refuseVotersName(request.Host); err != nil {
		return Issued{}, err
	}
	rec, err := NewHosts(s.store).Get(ctx, request.Host, raftstore.ReadOptions{})
	if err != nil {
		return Issued{}, err
	}
	pin, err := PinOfKey(key)
	if err != nil {
		return Issued{}, err
	}
	if rec.ID != request.ID || rec.KeyPin != pin.String() {
		return Issued{}, fault.New(fault.Forbidden, "host %s did not join with this ID and key", request.Host).About(request.Host)
	}
	chain, err := ca.IssueNode(key, rec.Node(), NodeSANs(rec.MeshAddress, rec.SANs), s.lifetime)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Chain: chain, CABundle: bundle}, nil
}

// SignRenewal implements Authority.
func (s *Signer) SignRenewal(ctx context.Context, proof RenewalProof) (Issued, error) {
	node, err := s.VerifyProof(ctx, proof)
	if err != nil {
		return Issued{}, err
	}
	issued, err := s.RenewHost(ctx, node, proof.CSR)
	if s.passOn(err) {
		return s.voters.SignRenewal(ctx, proof)
	}
	return issued, err
}

// SignClient implements Authority. It signs only for a key whose record is in the list and not
// revoked, and only what the record says, and that of the user if it is a user's, as this host
// reads them: whoever asks cannot get a certificate that the mesh does not know of, for groups
// that the user is not in, or for longer than MaxAdminLifetime.
func (s *Signer) SignClient(ctx context.Context, request ClientSigning) (Issued, error) {
	key, err := parsePublicKey(request.Key)
	if err != nil {
		return Issued{}, fault.InField("key", "cannot be read: %w", err)
	}
	pin, err := PinOfKey(key)
	if err != nil {
		return Issued{}, err
	}
	ca, bundle, err := s.ca(ctx, raftstore.ReadOptions{})
	if s.passOn(err) {
		return s.voters.SignClient(ctx, request)
	}
	if err != nil {
		return Issued{}, fmt.Errorf("sign the certificate of a person: %w", err)
	}
	client, err := NewClients(s.store).usable(ctx, KeyHash(pin), raftstore.ReadOptions{})
	if errors.Is(err, fault.NotFound) {
		return Issued{}, fault.New(fault.Forbidden, "only a certificate that the mesh has listed is signed: %w", &unlistedError{KeyHash(pin)})
	}
	if err != nil {
		return Issued{}, err
	}
	rec := client.rec
	if !validUser(rec.User) {
		return Issued{}, fault.InField("user", "%q cannot be the name of a person", hostname.Clip(rec.User))
	}
	lifetime := min(time.Until(rec.Expires), MaxAdminLifetime)
	if lifetime <= 0 {
		return Issued{}, fault.New(fault.ClockSkew, "the certificate would have ended at %s, by the clock of the host that signs", rec.Expires.Format(time.RFC3339))
	}
	chain, err := ca.IssueClient(key, rec.User, client.groups, lifetime)
	if err != nil {
		return Issued{}, fault.New(fault.Invalid, "%w", err)
	}
	return Issued{Chain: chain, CABundle: bundle}, nil
}

// NewClientSigning returns the request for the certificate of a person with a key.
func NewClientSigning(key *ecdsa.PublicKey) (ClientSigning, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return ClientSigning{}, fmt.Errorf("encode public key: %w", err)
	}
	return ClientSigning{Key: der}, nil
}

// parsePublicKey reads a public key (DER) of the only kind that the mesh uses.
func parsePublicKey(der []byte) (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve.Params().BitSize != 256 {
		return nil, errors.New("it is not ECDSA P-256")
	}
	return key, nil
}
