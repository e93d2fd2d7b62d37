package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"virtmesh/storage/durable"
)

// Any host can write the note of a recovery bundle into the mesh's state, and so name itself as
// the recipient. So a voter's keyring keeps the note of the newest bundle that it knows of
// itself: root on that host made the bundle, or another voter's keyring knows it. From feature
// level level.Succession on voters go by it, and not by the state.

// fileKnownBundle holds the BundleMade that this host's keyring knows. It is no secret.
const fileKnownBundle = "bundle.json"

// KnownBundle returns the newest recovery bundle that this host's keyring knows; nil if it knows
// none. The caller must not change it.
func (i *Identity) KnownBundle() *BundleMade {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.knownBundle
}

// KnowBundle puts the note of a recovery bundle into the keyring of this host, on disk and in
// memory. The caller makes sure that the bundle was made.
func (i *Identity) KnowBundle(made BundleMade) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.knownBundle != nil && i.knownBundle.Same(made) {
		return nil
	}
	data, err := json.Marshal(made)
	if err == nil {
		err = durable.WriteFile(i.path(fileKnownBundle), data, 0o600)
	}
	if err != nil {
		return fmt.Errorf("keep the note of the recovery bundle: %w", err)
	}
	i.knownBundle = &made
	return nil
}

// ForgetBundle deletes the note of the recovery bundle from the keyring of this host, which does
// not vote any more: it will not learn of newer ones.
func (i *Identity) ForgetBundle() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	err := os.Remove(i.path(fileKnownBundle))
	if err == nil {
		err = durable.Sync(i.path(""))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget the note of the recovery bundle: %w", err)
	}
	i.knownBundle = nil
	return nil
}

// Same reports whether two notes are of the same bundle and say the same of what is in it.
func (b BundleMade) Same(other BundleMade) bool {
	b.BackupRecipient, other.BackupRecipient = "", "" // follows from the CA, and is noted later
	mine, err := json.Marshal(b)
	theirs, otherErr := json.Marshal(other)
	return err == nil && otherErr == nil && string(mine) == string(theirs)
}

// Judge returns what this host's keyring vouches for of what the state says of the recovery
// bundle and of its escrow. Only a voter can.
func (i *Identity) Judge(c Custody) Custody {
	c.Bundle = i.KnownBundle()
	if c.Escrow != nil && !i.vouchesFor(*c.Escrow, c.InUse) {
		c.Escrow = nil
	}
	return c
}

func readKnownBundle(path string) (*BundleMade, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	var made BundleMade
	if err := json.Unmarshal(data, &made); err != nil {
		return nil, fmt.Errorf("read identity: %s: %w", fileKnownBundle, err)
	}
	return &made, nil
}
