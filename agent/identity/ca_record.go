package identity

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/fault"
)

// CAStage says how far the replacement of the CA has come.
//
//	"" -> Wanted -> Given -> Signing -> Replaced -> Wanted -> ...
//
// Given goes back to Wanted if the key of the next CA is lost.
type CAStage string

// The stages of a rotation. Every host follows the record, so each stage begins when the one
// before has reached every host that is on.
const (
	// CAWanted: the leader makes the next CA, and the voters take its key. No host trusts it.
	CAWanted CAStage = "Wanted"
	// CAGiven: hosts trust the next CA too; the present one signs.
	CAGiven CAStage = "Given"
	// CASigning: the next CA has become the present one and signs; hosts still trust the one
	// before.
	CASigning CAStage = "Signing"
	// CAReplaced: hosts trust the new CA alone. The one before is a former one.
	CAReplaced CAStage = "Replaced"
)

// ErrOtherCARotation is the error of a rotation after which another one has begun. That one also
// replaces the CA that this one should.
var ErrOtherCARotation = errors.New("another replacement of the mesh's CA has begun since")

// maxFormerCAs bounds how many former CAs the record has; the oldest are forgotten. A host that was
// off for more replacements than that joins anew, see verifyForgotten.
const maxFormerCAs = 8

// CARecord is the mesh CA as it is stored.
type CARecord struct {
	MeshID string `json:"meshID"`
	// Certificate and Key are the CA that signs, PEM. Key is empty once the key is in the
	// keyring of the voters only, which needs feature level level.Keyring.
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key,omitempty"`
	// Bundle is every CA certificate that hosts trust, PEM: first the one that signs. A former
	// CA is not in it.
	Bundle []byte `json:"bundle"`

	// The rest is there from feature level level.Succession on, once the CA was to be replaced.

	// Generation is one higher for each change of the CAs.
	Generation uint64 `json:"generation,omitempty"`
	// Rotation is the UID of the last operation that replaces the CA, and Stage says how far it
	// is.
	Rotation string  `json:"rotation,omitempty"`
	Stage    CAStage `json:"stage,omitempty"`
	// Next is the CA that will sign, PEM; empty if none is on its way, or the leader has not
	// made it yet. Its private key is never in the replicated state.
	Next []byte `json:"next,omitempty"`
	// Signs is from when the CA that signs does so; zero if it is the first.
	Signs time.Time `json:"signs,omitzero"`
	// Successor is, while the CA is replaced, the new CA signed by the old one, PEM.
	Successor []byte `json:"successor,omitempty"`
	// Former are the CAs of before, the newest first.
	Former []FormerCA `json:"former,omitempty"`
}

// mustBe returns an error if the record is that of a later rotation.
func (r *CARecord) mustBe(rotation string) error {
	if r.Rotation == rotation {
		return nil
	}
	return fault.New(fault.Conflict, "%w", ErrOtherCARotation)
}

// want begins a rotation. What another one left that no certificate depends on is undone: its
// next CA may be known to whom this rotation shuts out. Once a new CA signs, that rotation must
// be ended first.
func (r *CARecord) want(rotation string) (bool, error) {
	switch {
	case r.Rotation == rotation:
		return false, nil
	case r.Stage == CASigning:
		return false, errors.New("the replacement of the CA before this one has not ended")
	}
	r.Bundle, r.Next, r.Successor = bytes.Clone(r.Certificate), nil, nil
	r.Rotation, r.Stage = rotation, CAWanted
	return true, nil
}

// wantAnother goes back to where the leader makes the next CA: nobody has the key of the one
// that hosts trust already. It has signed nothing.
func (r *CARecord) wantAnother(rotation string, lost Pin) (bool, error) {
	if err := r.mustBe(rotation); err != nil || r.Stage != CAGiven {
		return false, err
	}
	if next, ok := r.NextCA(); !ok || next != lost {
		return false, nil
	}
	r.Bundle, r.Next, r.Successor, r.Stage = bytes.Clone(r.Certificate), nil, nil, CAWanted
	return true, nil
}

// noteNext notes the CA that will sign (PEM), and the same signed by the present one, instead of one
// that was noted before: as long as no host trusts it.
func (r *CARecord) noteNext(next, successor []byte) (bool, error) {
	if r.Stage != CAWanted {
		return false, errors.New("no other CA is wanted")
	}
	r.Next, r.Successor = next, successor
	return true, nil
}

// give lets hosts trust the next CA too.
func (r *CARecord) give(rotation string) (bool, error) {
	if err := r.mustBe(rotation); err != nil || r.Stage != CAWanted {
		return false, err
	}
	if len(r.Next) == 0 {
		return false, errors.New("the next CA is not made yet")
	}
	r.Bundle, r.Stage = slices.Concat(r.Certificate, r.Next), CAGiven
	return true, nil
}

// sign makes the next CA the one that signs.
func (r *CARecord) sign(rotation string, now time.Time) (bool, error) {
	if err := r.mustBe(rotation); err != nil || r.Stage != CAGiven {
		return false, err
	}
	if len(r.Key) > 0 {
		return false, errors.New("the key of the CA is in the mesh's state")
	}
	r.Bundle = slices.Concat(r.Next, r.Certificate)
	r.Certificate, r.Next, r.Stage, r.Signs = r.Next, nil, CASigning, now.UTC()
	return true, nil
}

// replace ends the trust in the CA of before: it becomes a former one.
func (r *CARecord) replace(rotation string, until time.Time) (bool, error) {
	if err := r.mustBe(rotation); err != nil || r.Stage == CAReplaced {
		return false, err
	}
	if r.Stage != CASigning {
		return false, errors.New("the new CA does not sign yet")
	}
	before, err := r.retiring()
	if err != nil {
		return false, err
	}
	former := append([]FormerCA{{Certificate: before, Successor: r.Successor, Ended: r.Signs, Until: until.UTC()}}, r.Former...)
	r.Former = former[:min(len(former), maxFormerCAs)]
	r.Bundle, r.Successor, r.Stage = bytes.Clone(r.Certificate), nil, CAReplaced
	return true, nil
}

// retiring returns the certificate of the CA that signed before, while hosts still trust it.
func (r *CARecord) retiring() ([]byte, error) {
	signing, err := r.pin()
	if err != nil {
		return nil, err
	}
	certs, err := ParseCertificates(r.Bundle)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", KeyCA, err)
	}
	for _, cert := range certs {
		if PinOf(cert) != signing {
			return EncodeCertificates(cert), nil
		}
	}
	return nil, fmt.Errorf("read %s: the CA that signed before is not in it", KeyCA)
}

// NextCA returns the pin of the CA that will sign, and whether there is one.
func (r *CARecord) NextCA() (Pin, bool) {
	pins := pinsOf(r.Next)
	if len(pins) == 0 {
		return Pin{}, false
	}
	return pins[0], true
}

// InUse returns the pins of the CAs whose keys the mesh needs: the one that signs, and the one
// that will sign.
func (r *CARecord) InUse() []Pin { return append(pinsOf(r.Certificate), pinsOf(r.Next)...) }

// Kept returns the pins of the CAs whose keys voters keep: those in use, and that of the CA of
// before as long as hosts trust it, for who has to go on from a copy of the state that is behind.
func (r *CARecord) Kept() []Pin { return append(r.InUse(), pinsOf(r.Bundle)...) }
