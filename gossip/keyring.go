package gossip

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// ErrNotEncrypted is returned when keys are changed on a member that was started
// without keys. Encryption cannot be switched on while a member runs.
var ErrNotEncrypted = errors.New("gossip is not encrypted")

// To rotate a key without losing packets, call SetKeys on every member three times: with
// the old key and then the new one, with the new key and then the old one, and with the new
// key alone. Facts.Keys says which keys a member has; go on when every live member has
// those of before.

// Fingerprint names a list of keys without telling them. It depends on which key is the
// first, and not on the order of the others. It is empty for no keys.
func Fingerprint(keys [][]byte) string {
	if len(keys) == 0 {
		return ""
	}
	h := sha256.New()
	h.Write([]byte("virtmesh gossip keys\x00"))
	for _, key := range slices.Concat(keys[:1], slices.SortedFunc(slices.Values(keys[1:]), bytes.Compare)) {
		// Keys of different lengths must not run into each other.
		h.Write([]byte{byte(len(key))})
		h.Write(key)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

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

// SetKeys makes keys the only ones whose packets this member accepts, and the first of them
// the one that it encrypts with. It may be called again with the same. The member's facts
// say at once that it has these keys. Encryption cannot be switched on or off.
func (g *Gossip) SetKeys(keys [][]byte) error {
	if len(keys) == 0 {
		return errors.New("set gossip keys: there is none")
	}
	k := g.keyring
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ring == nil {
		return ErrNotEncrypted
	}
	if err := k.set(keys); err != nil {
		return fmt.Errorf("set gossip keys: %w", err)
	}
	g.mu.Lock()
	own := g.own.facts
	g.mu.Unlock()
	own.Keys = Fingerprint(k.keys())
	return g.setFacts(own)
}

// set changes the ring so that it holds keys in their order. A key is removed only once
// another one encrypts. The caller holds the lock.
func (k *keyring) set(keys [][]byte) error {
	for _, key := range keys {
		if err := k.ring.AddKey(bytes.Clone(key)); err != nil {
			return err
		}
	}
	if err := k.ring.UseKey(keys[0]); err != nil {
		return err
	}
	for _, have := range slices.Clone(k.ring.GetKeys()) {
		if slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, have) }) {
			continue
		}
		if err := k.remove(have); err != nil {
			return err
		}
	}
	return nil
}

// remove removes a key that is not the first. The caller holds the lock.
func (k *keyring) remove(key []byte) error {
	keys := k.ring.GetKeys()
	at := slices.IndexFunc(keys, func(have []byte) bool { return bytes.Equal(have, key) })
	if at < 0 {
		return nil
	}
	// memberlist removes a key by shifting the later keys down in the same array
	// that concurrent readers use. Removing the last key shifts nothing, so the
	// later keys are removed first, last to first, and added again afterwards.
	behind := slices.Clone(keys[at+1:])
	for _, later := range slices.Backward(behind) {
		if err := k.ring.RemoveKey(later); err != nil {
			return err
		}
	}
	err := k.ring.RemoveKey(bytes.Clone(key))
	for _, later := range behind {
		err = errors.Join(err, k.ring.AddKey(later))
	}
	return err
}
