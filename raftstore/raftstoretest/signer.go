package raftstoretest

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"virtmesh/raftstore"
)

// Keys signs and verifies statements for the hosts of a test. A host has a key from the
// first use of its Signer on.
type Keys struct {
	mu    sync.Mutex
	keys  map[string]ed25519.PrivateKey
	ended map[string]bool
}

// NewKeys returns Keys of no host.
func NewKeys() *Keys {
	return &Keys{keys: make(map[string]ed25519.PrivateKey), ended: make(map[string]bool)}
}

// End ends the membership of a host: its signatures are valid no more.
func (k *Keys) End(node string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended[node] = true
}

// Signer returns the Signer of a host.
func (k *Keys) Signer(node string) raftstore.Signer { return signer{k, node} }

type signer struct {
	keys *Keys
	node string
}

var _ raftstore.Signer = signer{}

// signature is what a signer makes.
type signature struct {
	Node string
	Sum  []byte
}

// Sign implements raftstore.Signer.
func (s signer) Sign(message []byte) ([]byte, error) {
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	key := s.keys.keys[s.node]
	if key == nil {
		var err error
		if _, key, err = ed25519.GenerateKey(nil); err != nil {
			return nil, err
		}
		s.keys.keys[s.node] = key
	}
	return json.Marshal(signature{s.node, ed25519.Sign(key, message)})
}

// Verify implements raftstore.Signer.
func (s signer) Verify(message, signed []byte) (string, error) {
	var sig signature
	if err := json.Unmarshal(signed, &sig); err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	s.keys.mu.Lock()
	defer s.keys.mu.Unlock()
	key := s.keys.keys[sig.Node]
	switch {
	case key == nil:
		return "", fmt.Errorf("%s has no key", sig.Node)
	case s.keys.ended[sig.Node]:
		return "", fmt.Errorf("%s is no member any more", sig.Node)
	case !ed25519.Verify(key.Public().(ed25519.PublicKey), message, sig.Sum):
		return "", errors.New("wrong signature")
	}
	return sig.Node, nil
}
