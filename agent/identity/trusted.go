package identity

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

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

// TrustCAs adds those CAs of a bundle (PEM) to the ones that this host trusts that it does not
// trust yet, on disk and in memory, and reports whether there were any. The CA that this host
// takes for the one that signs stays the first. The caller vouches for the bundle.
func (i *Identity) TrustCAs(bundle []byte) (added bool, err error) {
	more, err := ParseCertificates(bundle)
	if err != nil {
		return false, fmt.Errorf("trust CAs: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	m := i.current.Load()
	trusted, err := ParseCertificates(m.bundle)
	if err != nil {
		return false, fmt.Errorf("trust CAs: %w", err)
	}
	for _, ca := range more {
		if !slices.ContainsFunc(trusted, ca.Equal) {
			trusted, added = append(trusted, ca), true
		}
	}
	if !added {
		return false, nil
	}
	next := *m
	next.bundle = EncodeCertificates(trusted...)
	if next.roots, err = NewPool(next.bundle); err != nil {
		return false, fmt.Errorf("trust CAs: %w", err)
	}
	if err := durable.WriteFile(i.path(fileBundle), next.bundle, 0o600); err != nil {
		return false, fmt.Errorf("trust CAs: %w", err)
	}
	i.current.Store(&next)
	return true, nil
}

// TrustedCAs returns the CAs that hosts trust for everything (PEM), as the replicated state has
// them, or ErrNotSeeded.
func TrustedCAs(ctx context.Context, store Store, opts raftstore.ReadOptions) ([]byte, error) {
	rec, _, err := readCA(ctx, store, opts)
	return rec.Bundle, err
}
