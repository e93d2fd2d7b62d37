package bearer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"virtmesh/agent/sealed"
)

// Key signs tokens. The zero value is no key.
type Key struct {
	public  PublicKey
	private *ecdsa.PrivateKey
}

// PublicKey judges tokens that its Key has signed.
type PublicKey struct {
	// ID names the pair of keys; tokens say it as their "kid". It is made from Public.
	ID string `json:"id"`
	// Public is the key, as a SubjectPublicKeyInfo in DER.
	Public []byte `json:"public"`
	// SecretKey names the key for Secrets that the pair was made from.
	SecretKey string `json:"secretKey"`
}

// KeysRecord has the keys that judge tokens, as the state of the mesh holds them. The first one
// that a voter has is the one that it signs with. A token of any other key is refused.
type KeysRecord struct {
	Keys []PublicKey `json:"keys"`
}

const (
	// use sets this use of a key for Secrets apart from every other one.
	use = "virtmesh key for the tokens of service accounts 1"
	// tries bounds how often a number is drawn that is no private key, each of which is as
	// likely as one in 2^32.
	tries = 8
)

// DeriveKey returns the key that signs tokens for a key for Secrets. It is always the same one.
func DeriveKey(secret sealed.PrivateKey) (Key, error) {
	data, err := secret.Bytes()
	if err != nil {
		return Key{}, fmt.Errorf("make the key for tokens: %w", err)
	}
	for i := range tries {
		number, err := hkdf.Key(sha256.New, data, nil, fmt.Sprintf("%s/%d", use, i), 32)
		if err != nil {
			return Key{}, fmt.Errorf("make the key for tokens: %w", err)
		}
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), number)
		if err != nil {
			continue
		}
		public, err := NewPublicKey(&private.PublicKey)
		public.SecretKey = secret.ID()
		return Key{public: public, private: private}, err
	}
	return Key{}, errors.New("make the key for tokens: no number is a private key")
}

// NewPublicKey returns a key that judges tokens, with the name that follows from it.
func NewPublicKey(key *ecdsa.PublicKey) (PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return PublicKey{}, fmt.Errorf("encode the key for tokens: %w", err)
	}
	sum := sha256.Sum256(der)
	return PublicKey{ID: hex.EncodeToString(sum[:8]), Public: der}, nil
}

// Public returns the public half.
func (k Key) Public() PublicKey { return k.public }

// Parse returns the key, which must be on the curve P-256 and have the name that follows from it.
func (k PublicKey) Parse() (*ecdsa.PublicKey, error) {
	parsed, err := x509.ParsePKIXPublicKey(k.Public)
	if err != nil {
		return nil, fmt.Errorf("read the key %.16s for tokens: %w", k.ID, err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("the key %.16s for tokens is not ECDSA P-256", k.ID)
	}
	if named, err := NewPublicKey(key); err != nil || named.ID != k.ID {
		return nil, errors.Join(err, fmt.Errorf("the key %.16s for tokens has another name", k.ID))
	}
	return key, nil
}

// Find returns the key with a name.
func (r KeysRecord) Find(id string) (PublicKey, bool) {
	i := slices.IndexFunc(r.Keys, func(k PublicKey) bool { return k.ID == id })
	if i < 0 {
		return PublicKey{}, false
	}
	return r.Keys[i], true
}
