package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"virtmesh/raftstore"
	"virtmesh/storage/durable"
)

// fileManifest is in the identity folder, so that it is gone with the membership that it is
// about.
const fileManifest = "manifest.json"

// Manifest returns the newest list of the mesh's voters that this host has verified, as
// KeepManifest got it; nil if it has none.
func (i *Identity) Manifest() ([]byte, error) {
	data, err := os.ReadFile(i.path(fileManifest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the list of voters: %w", err)
	}
	return data, nil
}

// KeepManifest keeps a list of the mesh's voters, for later starts.
func (i *Identity) KeepManifest(data []byte) error {
	if err := durable.WriteFile(i.path(fileManifest), data, 0o600); err != nil {
		return fmt.Errorf("keep the list of voters: %w", err)
	}
	return nil
}

// ForgetManifest deletes what KeepManifest has kept on the host with a state directory, if
// anything. The agent must not be running.
func ForgetManifest(dir string) error {
	path := filepath.Join(dir, folder, fileManifest)
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = durable.Sync(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("forget the list of voters: %w", err)
	}
	return nil
}

// TrustedCAs returns the CAs that hosts trust for everything (PEM) and the version of this trust,
// as the replicated state has them, or ErrNotSeeded. See Identity.KeepTrust.
func TrustedCAs(ctx context.Context, store Store, opts raftstore.ReadOptions) (bundle []byte, generation uint64, err error) {
	rec, _, err := readCA(ctx, store, opts)
	return rec.Bundle, rec.Generation, err
}
