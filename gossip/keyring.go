package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/memberlist"
)

// ErrNotEncrypted is returned when keys are changed on a member that was started
// without keys. Encryption cannot be switched on while a member runs.
var ErrNotEncrypted = errors.New("gossip is not encrypted")

// To rotate a key without losing packets, call AddKey on every member, then UseKey on
// every member, then RemoveKey with the old key on every member. Each step can be
// repeated.

// keyring serialises changes of memberlist's keyring.
type keyring struct {
	mu   sync.Mutex
	ring *memberlist.Keyring // nil without encryption
}

func newKeyring(keys [][]byte) (*keyring, error) {
	if len(keys) == 0 {
		return &keyring{}, nil
	}
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip keys: %w", err)
	}
	return &keyring{ring: ring}, nil
}

// keys returns all keys. The first one is the key that encrypts.
func (k *keyring) keys() [][]byte {
	if k.ring == nil {
		return nil
	}
	return k.ring.GetKeys()
}

// primary returns a list of only the key that encrypts, empty without encryption.
func (k *keyring) primary() [][]byte {
	if k.ring == nil {
		return nil
	}
	return k.ring.GetKeys()[:1]
}

// AddKey makes this member accept packets encrypted with key.
func (g *Gossip) AddKey(key []byte) error {
	k := g.keyring
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring == nil {
		return ErrNotEncrypted
	}
	if err := k.ring.AddKey(bytes.Clone(key)); err != nil {
		return fmt.Errorf("add gossip key: %w", err)
	}
	return nil
}

// UseKey makes this member encrypt with key. The key must have been added on this
// member and on every other one before.
func (g *Gossip) UseKey(key []byte) error {
	k := g.keyring
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring == nil {
		return ErrNotEncrypted
	}
	if err := k.ring.UseKey(key); err != nil {
		return fmt.Errorf("use gossip key: %w", err)
	}
	return nil
}

// RemoveKey makes this member refuse packets encrypted with key. It returns an error
// for the key in use, and none for an unknown key.
func (g *Gossip) RemoveKey(key []byte) error {
	k := g.keyring
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring == nil {
		return ErrNotEncrypted
	}
	keys := k.ring.GetKeys()
	at := -1
	for i := range keys {
		if bytes.Equal(keys[i], key) {
			at = i
		}
	}
	if at < 0 {
		return nil
	}
	if at == 0 {
		return errors.New("remove gossip key: this member encrypts with it; use another key first")
	}
	// memberlist removes a key by shifting the later keys down in the same array
	// that concurrent readers use. Removing the last key shifts nothing, so the
	// later keys are removed first, last to first, and added again afterwards.
	behind := append([][]byte(nil), keys[at+1:]...)
	for i := len(behind) - 1; i >= 0; i-- {
		if err := k.ring.RemoveKey(behind[i]); err != nil {
			return fmt.Errorf("remove gossip key: %w", err)
		}
	}
	removeErr := k.ring.RemoveKey(bytes.Clone(key))
	for _, b := range behind {
		if err := k.ring.AddKey(b); err != nil {
			return fmt.Errorf("restore gossip key: %w", err)
		}
	}
	if removeErr != nil {
		return fmt.Errorf("remove gossip key: %w", removeErr)
	}
	return nil
}
