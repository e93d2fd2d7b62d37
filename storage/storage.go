// Package storage is the contract between the agent and what keeps volumes:
// pools of one kind or another, local to a host or shared by all.
//
// A volume is a disk for a guest. It is made whole or not at all, keeps what
// was written to it until it is deleted, and is known by a name that its
// creator chose and that never changes. Drivers are packages below this one;
// package storagetest holds the suite that each of them passes.
//
// The contract does not say who may use a volume when: claims in the
// replicated store do. It does not resize a volume that is in use.
package storage

import (
	"context"
	"errors"
)

// Errors that callers act upon; drivers wrap them.
var (
	// ErrNotFound: the pool has no such volume.
	ErrNotFound = errors.New("no such volume")
	// ErrExists: another volume of that name is there, of another size.
	ErrExists = errors.New("volume exists")
	// ErrNoSpace: the pool has no room for it.
	ErrNoSpace = errors.New("no space left in pool")
	// ErrInvalid: the name or the size cannot be used.
	ErrInvalid = errors.New("invalid volume")
)

// Capabilities say what a pool can do, so that nobody asks for its type.
type Capabilities struct {
	// Shared pools hold the same volumes on every host.
	Shared bool
	// Expand tells whether volumes can grow.
	Expand bool
	// Block tells whether volumes are devices and not files.
	Block bool
}

// Usage is how full a pool is, in bytes.
type Usage struct {
	Capacity int64
	Free     int64
}

// VolumeSpec describes a volume to be made.
type VolumeSpec struct {
	// Name is a DNS label or subdomain, unique in the pool.
	Name string
	// Size is what the guest sees, in bytes.
	Size int64
	// Fill, if set, writes the volume's first content to an empty raw file of
	// Size bytes at path, before the volume can be seen by anyone.
	Fill func(ctx context.Context, path string) error
}

// Volume is one volume as this host reaches it.
type Volume struct {
	Name string
	// Size is what the guest sees, in bytes.
	Size int64
	// Path is the file or device to give to a guest.
	Path string
	// Format is raw or qcow2. It never changes.
	Format string
}

// Pool keeps volumes. All methods may be called at once, from several hosts if
// the pool is shared.
type Pool interface {
	// Capabilities do not change while the pool is open.
	Capabilities() Capabilities
	// Create makes a volume. One of the same name and size that is there
	// already is returned as it is, without filling it.
	Create(ctx context.Context, spec VolumeSpec) (Volume, error)
	// Get returns a volume, or ErrNotFound.
	Get(ctx context.Context, name string) (Volume, error)
	// List returns all volumes, ordered by name.
	List(ctx context.Context) ([]Volume, error)
	// Delete removes a volume. One that is not there is no error.
	Delete(ctx context.Context, name string) error
	// Expand grows a volume that is not in use; it never shrinks one.
	Expand(ctx context.Context, name string, size int64) error
	// Usage tells how full the pool is.
	Usage(ctx context.Context) (Usage, error)
}
