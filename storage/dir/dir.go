// Package dir is a pool of volumes in a directory: one raw, sparse file each.
//
// The directory may be local to a host or shared by all, as an NFS mount is.
// A volume is written under a temporary name, synced, and appears in one link,
// so that hosts which create the same volume at once agree on one file, and a
// crash leaves nothing that looks like a volume.
//
// Files belong to root and are closed to others; libvirt gives one to the
// guest's user for as long as it runs.
package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"virtmesh/storage"
)

// extension marks files that are volumes.
const extension = ".raw"

// temporaryPattern names files that are being written. It cannot match a
// volume, because a name does not begin with a dot.
const temporaryPattern = ".new-*"

// sector is the smallest unit a guest's disk is made of.
const sector = 512

var namePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

// Pool is an open directory.
type Pool struct {
	path   string
	shared bool
}

var _ storage.Pool = (*Pool)(nil)

// Open makes the directory if need be. shared says that every host sees the
// same one.
func Open(path string, shared bool) (*Pool, error) {
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("pool %q: %w: not an absolute path", path, storage.ErrInvalid)
	}
	if err := os.MkdirAll(path, 0o711); err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return &Pool{path: path, shared: shared}, nil
}

// Capabilities implements storage.Pool.
func (p *Pool) Capabilities() storage.Capabilities {
	return storage.Capabilities{Shared: p.shared, Expand: true}
}

func (p *Pool) file(name string) (string, error) {
	if !namePattern.MatchString(name) || strings.Contains(name, "..") {
		return "", fmt.Errorf("volume name %q: %w", name, storage.ErrInvalid)
	}
	return filepath.Join(p.path, name+extension), nil
}

// Create implements storage.Pool.
func (p *Pool) Create(ctx context.Context, spec storage.VolumeSpec) (storage.Volume, error) {
	path, err := p.file(spec.Name)
	if err != nil {
		return storage.Volume{}, err
	}
	if spec.Size <= 0 {
		return storage.Volume{}, fmt.Errorf("volume %s: %w: size %d", spec.Name, storage.ErrInvalid, spec.Size)
	}
	size := (spec.Size + sector - 1) / sector * sector
	if existing, err := p.Get(ctx, spec.Name); err == nil {
		return sameSize(existing, size)
	} else if !errors.Is(err, storage.ErrNotFound) {
		return storage.Volume{}, err
	}
	temporary, err := p.write(ctx, spec, size)
	if err != nil {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, full(err))
	}
	defer os.Remove(temporary)
	// A link, unlike a rename, does not replace what another host was faster
	// to create.
	if err := os.Link(temporary, path); err != nil && !errors.Is(err, os.ErrExist) {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, full(err))
	}
	if err := syncDir(p.path); err != nil {
		return storage.Volume{}, fmt.Errorf("create volume %s: %w", spec.Name, err)
	}
	created, err := p.Get(ctx, spec.Name)
	if err != nil {
		return storage.Volume{}, err
	}
	return sameSize(created, size)
}

func sameSize(v storage.Volume, size int64) (storage.Volume, error) {
	if v.Size != size {
		return storage.Volume{}, fmt.Errorf("volume %s: %w with %d bytes, not %d", v.Name, storage.ErrExists, v.Size, size)
	}
	return v, nil
}

// write makes the volume's content under a temporary name.
func (p *Pool) write(ctx context.Context, spec storage.VolumeSpec, size int64) (path string, err error) {
	f, err := os.CreateTemp(p.path, temporaryPattern)
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := f.Truncate(size); err != nil {
		return "", err
	}
	if spec.Fill != nil {
		if err := spec.Fill(ctx, f.Name()); err != nil {
			return "", fmt.Errorf("fill: %w", err)
		}
		// What filled it may have cut it to the length of its source.
		if err := f.Truncate(size); err != nil {
			return "", err
		}
	}
	return f.Name(), f.Sync()
}

// Get implements storage.Pool.
func (p *Pool) Get(_ context.Context, name string) (storage.Volume, error) {
	path, err := p.file(name)
	if err != nil {
		return storage.Volume{}, err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return storage.Volume{}, fmt.Errorf("volume %s: %w", name, storage.ErrNotFound)
	}
	if err != nil {
		return storage.Volume{}, fmt.Errorf("volume %s: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return storage.Volume{}, fmt.Errorf("volume %s: %w: %s is not a regular file", name, storage.ErrInvalid, path)
	}
	return storage.Volume{Name: name, Size: info.Size(), Path: path, Format: "raw"}, nil
}

// List implements storage.Pool.
func (p *Pool) List(ctx context.Context) ([]storage.Volume, error) {
	entries, err := os.ReadDir(p.path)
	if err != nil {
		return nil, fmt.Errorf("list pool: %w", err)
	}
	var volumes []storage.Volume
	for _, entry := range entries {
		name, ok := strings.CutSuffix(entry.Name(), extension)
		if !ok || !namePattern.MatchString(name) {
			continue
		}
		volume, err := p.Get(ctx, name)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrInvalid) {
			continue
		}
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, volume)
	}
	return volumes, nil
}

// Delete implements storage.Pool.
func (p *Pool) Delete(_ context.Context, name string) error {
	path, err := p.file(name)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	return nil
}

// Expand implements storage.Pool.
func (p *Pool) Expand(ctx context.Context, name string, size int64) error {
	volume, err := p.Get(ctx, name)
	if err != nil {
		return err
	}
	size = (size + sector - 1) / sector * sector
	if size < volume.Size {
		return fmt.Errorf("expand volume %s: %w: %d bytes are less than its %d", name, storage.ErrInvalid, size, volume.Size)
	}
	if err := os.Truncate(volume.Path, size); err != nil {
		return fmt.Errorf("expand volume %s: %w", name, full(err))
	}
	return nil
}

// Usage implements storage.Pool.
func (p *Pool) Usage(context.Context) (storage.Usage, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(p.path, &fs); err != nil {
		return storage.Usage{}, fmt.Errorf("measure pool: %w", err)
	}
	return storage.Usage{Capacity: int64(fs.Blocks) * fs.Bsize, Free: int64(fs.Bavail) * fs.Bsize}, nil
}

// full gives a full disk its class.
func full(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	}
	return err
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
