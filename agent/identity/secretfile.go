package identity

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"virtmesh/storage/durable"
)

// The private keys of the keyring are in secret files: named files of the identity folder that
// nothing but this file reads and writes. How they are kept on disk is decided here alone.

// readSecretFile returns the content of a secret file in an identity folder. The error is
// fs.ErrNotExist if there is none.
func readSecretFile(at, name string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(at, name))
	if err != nil {
		return nil, fmt.Errorf("read the secret file %s: %w", name, err)
	}
	return data, nil
}

// writeSecretFile replaces a secret file in an identity folder, completely or not at all. It is
// on the disk when writeSecretFile returns. Without data the file is deleted; it is no error if
// there is none.
func writeSecretFile(at, name string, data []byte) error {
	path := filepath.Join(at, name)
	if len(data) > 0 {
		if err := durable.WriteFile(path, data, 0o600); err != nil {
			return fmt.Errorf("write the secret file %s: %w", name, err)
		}
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete the secret file %s: %w", name, err)
	}
	if err := durable.Sync(at); err != nil {
		return fmt.Errorf("delete the secret file %s: %w", name, err)
	}
	return nil
}
