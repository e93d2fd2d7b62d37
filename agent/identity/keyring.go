package identity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"virtmesh/storage/durable"
)

// ErrNoCAKey is returned where the key of the CA is needed on a host that does not hold it.
var ErrNoCAKey = errors.New("this host does not hold the key of the mesh's CA")

// CAKey returns this host's copy of the CA's private key as PEM, or nil if the host holds
// none. The caller must not change it.
func (i *Identity) CAKey() []byte {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.caKey
}

// HeldCA returns the pin of the CA whose key this host holds, and whether it holds one.
func (i *Identity) HeldCA() (Pin, bool) {
	key := i.CAKey()
	if len(key) == 0 {
		return Pin{}, false
	}
	ca, err := ParseCA(i.CABundle(), key)
	if err != nil {
		return Pin{}, false
	}
	return ca.Pin(), true
}

// KeepCAKey puts the CA's private key (PEM) into the keyring of this host, on disk and in
// memory. It refuses a key that is not that of the first CA that the host trusts.
func (i *Identity) KeepCAKey(key []byte) error {
	if _, err := ParseCA(i.CABundle(), key); err != nil {
		return fmt.Errorf("keep the key of the CA: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if bytes.Equal(key, i.caKey) {
		return nil
	}
	if err := durable.WriteFile(i.path(fileCAKey), key, 0o600); err != nil {
		return fmt.Errorf("keep the key of the CA: %w", err)
	}
	i.caKey = bytes.Clone(key)
	return nil
}

// DropCAKey deletes this host's copy of the CA's private key. It is no error if there is
// none. The caller makes sure that other hosts hold it.
func (i *Identity) DropCAKey() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.founder {
		return errors.New("drop the key of the CA: the mesh's state does not hold the CA yet")
	}
	if err := os.Remove(i.path(fileCAKey)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("drop the key of the CA: %w", err)
	}
	i.caKey = nil
	if err := durable.Sync(i.path("")); err != nil {
		return fmt.Errorf("drop the key of the CA: %w", err)
	}
	return nil
}
