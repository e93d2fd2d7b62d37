package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
)

// Purpose is what a host signs a message for. It is signed together with the message, so that
// a signature for one purpose is never taken for one for another.
type Purpose string

// ForManifest signs lists of the mesh's voters, see package manifest.
const ForManifest Purpose = "virtmesh manifest v1\x00"

// errOddKey refuses keys of a kind that hosts do not have.
var errOddKey = errors.New("it is not ECDSA P-256")

func (p Purpose) digest(message []byte) []byte {
	h := sha256.New()
	h.Write([]byte(p))
	h.Write(message)
	return h.Sum(nil)
}

// SignFor signs a message with the key of this host. It returns the public key, in its
// SubjectPublicKeyInfo form, whose hash is the host's pin, and the signature.
func (i *Identity) SignFor(p Purpose, message []byte) (key, sum []byte, err error) {
	return SignFor(p, i.key(), message)
}

// SignFor signs a message with a private key, as Identity.SignFor does.
func SignFor(p Purpose, with *ecdsa.PrivateKey, message []byte) (key, sum []byte, err error) {
	if key, err = x509.MarshalPKIXPublicKey(with.Public()); err != nil {
		return nil, nil, fmt.Errorf("sign as a host: %w", err)
	}
	if sum, err = ecdsa.SignASN1(rand.Reader, with, p.digest(message)); err != nil {
		return nil, nil, fmt.Errorf("sign as a host: %w", err)
	}
	return key, sum, nil
}

// VerifyFor returns the pin of the key (SubjectPublicKeyInfo) that has signed a message, or an
// error if it has not.
func VerifyFor(p Purpose, message, key, sum []byte) (Pin, error) {
	parsed, err := x509.ParsePKIXPublicKey(key)
	if err != nil {
		return Pin{}, fmt.Errorf("key of a signature: %w", err)
	}
	public, ok := parsed.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return Pin{}, fmt.Errorf("key of a signature: %w", errOddKey)
	}
	if !ecdsa.VerifyASN1(public, p.digest(message), sum) {
		return Pin{}, fmt.Errorf("signature: %w", errBadSignature)
	}
	return PinOfKey(public)
}
