package sealed

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
)

// kem, kdf and aead are the one suite of HPKE that is used.
var (
	kem  = hpke.DHKEM(ecdh.X25519())
	kdf  = hpke.HKDFSHA256()
	aead = hpke.AES256GCM()
)

// PublicKey seals. The zero value is no key.
type PublicKey struct {
	id  string
	key hpke.PublicKey
}

// PrivateKey opens what its public key has sealed. The zero value is no key.
type PrivateKey struct {
	public PublicKey
	key    hpke.PrivateKey
}

// NewKey makes a pair of keys.
func NewKey() (PrivateKey, error) {
	key, err := kem.GenerateKey()
	if err != nil {
		return PrivateKey{}, fmt.Errorf("make a key for Secrets: %w", err)
	}
	return privateKey(key)
}

// ParsePrivateKey reads what PrivateKey.Bytes returned.
func ParsePrivateKey(data []byte) (PrivateKey, error) {
	key, err := kem.NewPrivateKey(data)
	if err != nil {
		return PrivateKey{}, fmt.Errorf("read a key for Secrets: %w", err)
	}
	return privateKey(key)
}

func privateKey(key hpke.PrivateKey) (PrivateKey, error) {
	public, err := ParsePublicKey(key.PublicKey().Bytes())
	return PrivateKey{public: public, key: key}, err
}

// ParsePublicKey reads what PublicKey.Bytes returned.
func ParsePublicKey(data []byte) (PublicKey, error) {
	key, err := kem.NewPublicKey(data)
	if err != nil {
		return PublicKey{}, fmt.Errorf("read the public key for Secrets: %w", err)
	}
	sum := sha256.Sum256(data)
	return PublicKey{id: hex.EncodeToString(sum[:8]), key: key}, nil
}

// ID names the pair of keys. It is made from the public key.
func (k PublicKey) ID() string { return k.id }

// Bytes returns the public key for storing.
func (k PublicKey) Bytes() []byte { return k.key.Bytes() }

// Public returns the public key of the pair.
func (k PrivateKey) Public() PublicKey { return k.public }

// ID names the pair of keys.
func (k PrivateKey) ID() string { return k.public.id }

// Bytes returns the private key for storing.
func (k PrivateKey) Bytes() ([]byte, error) { return k.key.Bytes() }

// Lock is the sealed data key of one write, with what it is bound to. It holds no secret.
type Lock struct {
	// Key names the pair of keys that it was sealed with.
	Key string `json:"key"`
	// Object is the store key of the object, and UID the object's UID.
	Object string `json:"object"`
	UID    string `json:"uid"`
	// Wrapped is the sealed data key.
	Wrapped []byte `json:"wrapped"`
}

// bound is what the data key and the content are bound to.
func (l Lock) bound() []byte {
	return fmt.Appendf(nil, "virtmesh sealed object 1\x00%s\x00%s\x00%s", l.Key, l.Object, l.UID)
}

// dataKeySize is the length of a data key in bytes: AES-256.
const dataKeySize = 32

// wrap seals a data key for an object.
func (k PublicKey) wrap(object, uid string, dataKey []byte) (Lock, error) {
	l := Lock{Key: k.id, Object: object, UID: uid}
	var err error
	l.Wrapped, err = hpke.Seal(k.key, kdf, aead, l.bound(), dataKey)
	return l, err
}

// Unlock returns the data key of a lock. It fails if the lock was made with another pair of
// keys, or for another object than it says.
func (k PrivateKey) Unlock(l Lock) ([]byte, error) {
	if l.Key != k.ID() {
		return nil, fmt.Errorf("%s was sealed with the key %.16s, and this is %s", l.Object, l.Key, k.ID())
	}
	dataKey, err := hpke.Open(k.key, kdf, aead, l.bound(), l.Wrapped)
	if err != nil || len(dataKey) != dataKeySize {
		return nil, errors.Join(fmt.Errorf("%s was not sealed for this object", l.Object), err)
	}
	return dataKey, nil
}
