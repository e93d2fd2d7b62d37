package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/hostname"
	"virtmesh/agent/identity"
)

// Bounds of a manifest.
const (
	// MaxBytes bounds an encoded manifest with its signatures.
	MaxBytes = 128 << 10
	// MaxVoters bounds the voters, and the signatures.
	MaxVoters = 32
	// MaxCAs bounds the CAs: the one that signs, the next one, and room.
	MaxCAs = 8
	// MaxVersion bounds the versions: far more than a mesh makes, and nothing overflows behind it.
	MaxVersion = 1 << 48
	// maxName bounds what a voter is described with.
	maxName = 256
)

// format is the version of the encoding. A later version of the program may add fields, which
// this one skips, and keeps the number as long as an earlier one understands the rest.
const format = 1

// Voter is a host that votes.
type Voter struct {
	Name string `json:"name"`
	ID   string `json:"id"`
	// KeyPin is the pin of the key that the host keeps.
	KeyPin string `json:"keyPin"`
	// Address is the mesh address that the host had, by which it may be found.
	Address string `json:"address,omitempty"`
}

// Is reports whether the voter is the machine with an ID and a key.
func (v Voter) Is(node identity.Node, key identity.Pin) bool {
	return v.Name == node.Name && v.ID == node.ID && v.KeyPin == key.String()
}

// Manifest is one version of the list.
type Manifest struct {
	Format int    `json:"format"`
	MeshID string `json:"meshID"`
	// Group is the incarnation of the Raft group: a recovery of the mesh makes another one.
	Group string `json:"group"`
	// Version counts the manifests of a mesh from 1.
	Version uint64 `json:"version"`
	// Previous is the hash of the version before; empty in the first one.
	Previous string `json:"previous,omitempty"`
	// Anew says that no majority of the voters before could sign: the chain begins again.
	Anew bool `json:"anew,omitempty"`
	// Voters are who votes from log index Index on, by name.
	Voters []Voter `json:"voters"`
	Index  uint64  `json:"index"`
	// CAs are the CAs that hosts trust for everything, PEM, and TrustGeneration is the version
	// of this trust.
	CAs             []byte `json:"cas"`
	TrustGeneration uint64 `json:"trustGeneration,omitempty"`
	// Made is the time of the clock of who made it; nothing is decided by it.
	Made time.Time `json:"made"`
}

// Signature is the signature of one host.
type Signature struct {
	// Key is the host's public key in its SubjectPublicKeyInfo form.
	Key []byte `json:"key"`
	Sum []byte `json:"sum"`
}

// Signed is a manifest with its signatures. It is not changed once it was read or sealed.
type Signed struct {
	body       []byte
	signatures []Signature
	manifest   Manifest
}

// wire is a Signed as it travels and is stored.
type wire struct {
	Body       []byte      `json:"body"`
	Signatures []Signature `json:"signatures,omitempty"`
}

// Seal returns a manifest that nobody has signed yet. Format and the order of the voters are
// Seal's business.
func Seal(m Manifest) (*Signed, error) {
	m.Format = format
	m.Voters = slices.SortedFunc(slices.Values(m.Voters), func(a, b Voter) int { return strings.Compare(a.Name, b.Name) })
	if err := m.validate(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return &Signed{body: body, manifest: m}, nil
}

// Parse reads what Encode wrote. It verifies no signature.
func Parse(data []byte) (*Signed, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("read manifest: it has %d bytes, at most %d are allowed", len(data), MaxBytes)
	}
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	s := &Signed{body: w.Body, signatures: w.Signatures}
	if err := json.Unmarshal(w.Body, &s.manifest); err != nil {
		return nil, fmt.Errorf("read the body of a manifest: %w", err)
	}
	if err := s.manifest.validate(); err != nil {
		return nil, fmt.Errorf("read manifest: %w", err)
	}
	if len(s.signatures) > MaxVoters {
		return nil, fmt.Errorf("read manifest: %d signatures, at most %d are allowed", len(s.signatures), MaxVoters)
	}
	return s, nil
}

// Encode returns the manifest as it travels and is stored.
func (s *Signed) Encode() ([]byte, error) {
	data, err := json.Marshal(wire{s.body, s.signatures})
	if err != nil {
		return nil, fmt.Errorf("encode manifest: %w", err)
	}
	return data, nil
}

// Manifest returns what it says. The caller must not change it.
func (s *Signed) Manifest() Manifest { return s.manifest }

// Hash returns the hash by which the next version names this one.
func (s *Signed) Hash() string {
	sum := sha256.Sum256(s.body)
	return hex.EncodeToString(sum[:])
}

// Is reports whether it is, byte by byte, what Seal makes of a manifest. Who signs it then signs
// nothing but what he says himself: no field that he does not know, and none that he ignores.
func (s *Signed) Is(m Manifest) bool {
	own, err := Seal(m)
	return err == nil && bytes.Equal(own.body, s.body)
}

// Names returns the voter of a name.
func (s *Signed) Names(host string) (Voter, bool) {
	i := slices.IndexFunc(s.manifest.Voters, func(v Voter) bool { return v.Name == host })
	if i < 0 {
		return Voter{}, false
	}
	return s.manifest.Voters[i], true
}

// VoterNames returns the names of the voters, sorted.
func (m Manifest) VoterNames() []string {
	names := make([]string, 0, len(m.Voters))
	for _, v := range m.Voters {
		names = append(names, v.Name)
	}
	return names
}

// Agrees reports whether two manifests say the same of their mesh: the same voters, CAs and
// group. Addresses do not count.
func (m Manifest) Agrees(o Manifest) bool {
	same := func(a, b Voter) bool { return a.Name == b.Name && a.ID == b.ID && a.KeyPin == b.KeyPin }
	return m.MeshID == o.MeshID && m.Group == o.Group && slices.EqualFunc(m.Voters, o.Voters, same) && slices.Equal(m.CAs, o.CAs) && m.TrustGeneration == o.TrustGeneration
}

func (m Manifest) validate() error {
	switch {
	case m.Format != format:
		return fmt.Errorf("it has format %d, this version knows format %d", m.Format, format)
	case m.MeshID == "" || len(m.MeshID) > maxName || len(m.Group) > maxName:
		return errors.New("it does not say of which mesh it is")
	case m.Version == 0 || m.Version > MaxVersion:
		return fmt.Errorf("it has no version from 1 to %d", uint64(MaxVersion))
	case (m.Version == 1) != (m.Previous == "") || m.Version == 1 && !m.Anew:
		return fmt.Errorf("version %d cannot follow %q", m.Version, m.Previous)
	case len(m.Previous) > maxName:
		return errors.New("it names no hash")
	case len(m.Voters) == 0 || len(m.Voters) > MaxVoters:
		return fmt.Errorf("%d voters, 1 to %d are allowed", len(m.Voters), MaxVoters)
	}
	return errors.Join(checkVoters(m.Voters), checkCAs(m.CAs))
}

func checkVoters(voters []Voter) error {
	for i, v := range voters {
		if err := hostname.Validate(v.Name); err != nil {
			return fmt.Errorf("voter %d: %w", i+1, err)
		}
		if _, err := identity.ParsePin(v.KeyPin); err != nil {
			return fmt.Errorf("voter %s: %w", v.Name, err)
		}
		if v.ID == "" || len(v.ID) > maxName || len(v.Address) > maxName {
			return fmt.Errorf("voter %s: its ID or address is missing or too long", v.Name)
		}
		for _, o := range voters[:i] {
			if o.Name >= v.Name || o.ID == v.ID || o.KeyPin == v.KeyPin {
				return fmt.Errorf("voters %s and %s are not two hosts in the order of their names", o.Name, v.Name)
			}
		}
	}
	return nil
}

func checkCAs(bundle []byte) error {
	certs, err := identity.ParseCertificates(bundle)
	if err != nil {
		return fmt.Errorf("CAs: %w", err)
	}
	if len(certs) > MaxCAs {
		return fmt.Errorf("%d CAs, at most %d are allowed", len(certs), MaxCAs)
	}
	_, err = identity.NewPool(bundle)
	return err
}
