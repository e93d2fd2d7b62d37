package hostseal

import (
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"encoding/pem"
	"errors"
	"fmt"
)

// A sealed file is a PEM block, so that a person sees what it is: the header names the sealing
// key, the content is a nonce and AES-256-GCM of the file.
const (
	pemSealed = "VIRTMESH SEALED FILE"
	pemKey    = "Sealing-Key"
)

// SealedWith returns the name of the key with which the content of a file is sealed; false if
// it is in clear.
func SealedWith(content []byte) (string, bool) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != pemSealed {
		return "", false
	}
	return block.Headers[pemKey], true
}

// Active returns the name of the key that seals; false as long as none does.
func (s *Seals) Active() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active, s.active != ""
}

// Seal returns the content of a file sealed. It is opened only under the same name. Begin must
// have been called.
func (s *Seals) Seal(name string, plain []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == "" {
		return nil, fmt.Errorf("seal %s: %w", name, cmp.Or(s.failed, errors.New("no key seals yet")))
	}
	gcm, err := newGCM(s.opened[s.active])
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	return pem.EncodeToMemory(&pem.Block{
		Type: pemSealed, Headers: map[string]string{pemKey: s.active},
		Bytes: gcm.Seal(nil, nil, plain, bound(name, s.active)),
	}), nil
}

// Unseal returns the content of a file that was sealed under a name. The error wraps ErrShut if
// the host cannot open the key, and then also ErrNoChip or ErrOtherChip if that is why.
func (s *Seals) Unseal(name string, content []byte) ([]byte, error) {
	block, _ := pem.Decode(content)
	if block == nil || block.Type != pemSealed {
		return nil, fmt.Errorf("open %s: it is not sealed", name)
	}
	with := block.Headers[pemKey]
	key, err := s.find(with)
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrShut, name, err)
	}
	gcm, err := newGCM(key)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	plain, err := gcm.Open(nil, nil, block.Bytes, bound(name, with))
	if err != nil {
		return nil, fmt.Errorf("%w %s: %w", ErrShut, name, errors.New("its content was changed, or sealed under another name"))
	}
	return plain, nil
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// bound is what a sealed content is bound to, so that no file can be taken for another.
func bound(name, key string) []byte {
	return []byte("virtmesh sealed file 1\x00" + name + "\x00" + key)
}
