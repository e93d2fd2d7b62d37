package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"virtmesh/agent/hostseal"
	"virtmesh/storage/durable"
)

// RemoveState deletes the identity folder of a host that has left its mesh, and the keys with
// which its keyring was sealed. It is no error if there is none.
func RemoveState(dir string) error {
	if err := removeFolder(dir); err != nil {
		return err
	}
	return hostseal.Remove(dir)
}

func removeFolder(dir string) error {
	gone := filepath.Join(dir, stagingPrefix+"left")
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove identity: %w", err)
	}
	// Rename the folder first, so that an interrupted removal does not leave part of an
	// identity.
	if err := durable.Rename(filepath.Join(dir, folder), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("remove identity: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove identity: %w", err)
	}
	return nil
}
