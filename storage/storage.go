// Package storage is the contract between the mesh and what keeps virtual disks:
// pools of volumes on a host.
//
// # Life of a volume
//
// Create makes a whole volume or none: a volume that Get finds has its full size,
// and its content if it was made from a source. A caller that does not know
// whether its Create succeeded calls it again; the second call returns ErrExists,
// and Get returns the volume. A volume keeps the format it was created with, raw or
// qcow2: the format is stored and never derived from the content, because a guest
// writes the content. The size is a multiple of SizeAlignment: a pool rounds up the
// requested size. Expand makes a volume larger, never smaller. Delete removes it;
// deleting a volume that does not exist succeeds.
//
// A pool does not know which virtual machine uses a volume, and does not keep two
// virtual machines from using the same one: claims in the replicated store do that.
// But a driver that can see that a volume is open refuses to delete it. A pool
// promises that its own operations leave every volume whole, even when they run
// concurrently and, if Capabilities.Shared is set, on several hosts.
//
// # Interfaces
//
// A driver implements Pool. A feature that only some drivers have is an interface
// of its own (Snapshotter). Capabilities lists the features, so that placement
// can check them without a call. Callers test errors with errors.Is against the
// error classes of this package.
//
// storage/storagetest holds the suite that every driver passes, and a fake.
// Packages below storage import nothing else of this module.
package storage

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Format is the format of a volume's content.
type Format string

// The formats a volume may have.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// Error classes. Errors wrap one of these, or a context's error, or are faults of
// the system below.
var (
	// ErrNotFound says that there is no such volume or snapshot.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a volume or snapshot of that name is there already.
	ErrExists = errors.New("exists already")
	// ErrInvalid says that an argument is invalid; the same call can never succeed.
	ErrInvalid = errors.New("invalid")
	// ErrNoSpace says that the pool has no room.
	ErrNoSpace = errors.New("no space left in pool")
	// ErrBusy says that another operation on the volume is in progress, or that a
	// virtual machine has it open.
	ErrBusy = errors.New("volume is busy")
	// ErrUnsupported says that the driver cannot do this.
	ErrUnsupported = errors.New("not supported by this pool")
	// ErrUnsafeSource says that a source is not a disk image, or refers to other files.
	ErrUnsafeSource = errors.New("source is not a usable disk image")
	// ErrUnavailable says that the pool's storage is missing, such as a file system
	// that is not mounted. Whether the volumes still exist is then unknown.
	ErrUnavailable = errors.New("pool is not there")
	// ErrClosed says that the pool was closed.
	ErrClosed = errors.New("pool is closed")
)

// Capabilities says what a pool can do.
type Capabilities struct {
	// Shared pools show the same volumes on every host that opens them, so that
	// a virtual machine can move without its disks being copied.
	Shared bool
	// Block volumes are block devices; others are files.
	Block bool
	// Expand can make volumes larger while nothing uses them. A volume in use is
	// grown by the hypervisor that uses it.
	Expand bool
	// Snapshots says that the pool implements Snapshotter.
	Snapshots bool
	// FastClone says that a volume made from another one shares its unchanged
	// content, so that creating it takes almost no time and no space.
	FastClone bool
	// Thin volumes occupy space for what was written, not for their whole size.
	Thin bool
	// Formats lists the formats that volumes may have, the default first.
	Formats []Format
}

// Info describes a pool.
type Info struct {
	Name         string
	Driver       string
	Capabilities Capabilities
}

// Usage counts a pool's bytes.
type Usage struct {
	// Capacity and Free are those of the file system or device below the pool.
	Capacity, Free int64
	// Provisioned is the sum of the volumes' sizes, Allocated the space they occupy.
	Provisioned, Allocated int64
	Volumes                int
}

// VolumeSpec says what volume to make.
type VolumeSpec struct {
	// Name is 1 to 200 letters, digits, '.', '_' and '-', beginning with a letter or digit.
	Name string
	// Size is the size of the virtual disk in bytes, which AlignSize rounds up. With a
	// source, 0 takes the source's, and less than the source's is an error.
	Size int64
	// Format is the pool's default if it is empty.
	Format Format
	// Preallocate allocates the whole size at once, if the driver can.
	Preallocate bool
	// Source is the first content of the volume; nil is zeros.
	Source *Source
	// Progress, if set, is called with the number of bytes copied from the source
	// and their total. It may be called from another goroutine, one call at a time.
	Progress func(done, total int64)
}

// Source is where a volume's first content comes from: exactly one of a file, a
// volume, and a snapshot of a volume of the same pool. It must not change during
// Create.
type Source struct {
	// File is a disk image on this host, of format FileFormat. The pool checks that
	// it refers to no other files, because it may come from outside.
	File       string
	FileFormat Format
	// Volume is another volume's name, and Snapshot one of its snapshots.
	Volume, Snapshot string
}

// Volume describes a volume that exists.
type Volume struct {
	Name   string
	Format Format
	// Size is the size of the virtual disk, Allocated the space that the volume
	// occupies, both in bytes.
	Size, Allocated int64
	// Path is what a virtual machine on this host opens.
	Path    string
	Created time.Time
}

// Pool holds volumes. All methods may be called concurrently from many goroutines.
// Operations on one volume run one after the other. Operations that copy content
// block until the copy is done or ctx ends.
type Pool interface {
	// Info does not block and never changes.
	Info() Info
	// Create makes a volume, or returns an error and leaves nothing behind:
	// ErrExists, ErrInvalid, ErrNoSpace, ErrNotFound (a missing source),
	// ErrUnsafeSource.
	Create(ctx context.Context, spec VolumeSpec) (Volume, error)
	// Get returns a volume or ErrNotFound.
	Get(ctx context.Context, name string) (Volume, error)
	// List returns all volumes by name.
	List(ctx context.Context) ([]Volume, error)
	// Delete removes a volume and its snapshots, even when the pool is full. It
	// succeeds if the volume does not exist. ErrBusy says that a virtual machine
	// has the volume open.
	Delete(ctx context.Context, name string) error
	// Expand makes a volume at least AlignSize(size) bytes large. A volume that is larger
	// already stays as it is. ErrBusy says that a virtual machine has it open.
	Expand(ctx context.Context, name string, size int64) (Volume, error)
	// Usage counts bytes. The result may be a few seconds old.
	Usage(ctx context.Context) (Usage, error)
	// Close waits for running operations. Volumes stay.
	Close() error
}

// Space is the room in the file system or device below a pool, in bytes.
type Space struct {
	Capacity, Free int64
	// Device tells the file systems of a host apart: two pools with one Device share their
	// room.
	Device uint64
}

// Room returns what new volumes may take beside a reserve of so many bytes.
func (s Space) Room(reserve int64) int64 { return max(0, s.Free-s.Reserve(reserve)) }

// Reserve returns how much of a reserve of so many bytes is kept free here: of a small file
// system, a tenth.
func (s Space) Reserve(bytes int64) int64 { return min(bytes, s.Capacity/10) }

// ProbedPool is a Pool that can be asked whether its storage is there.
type ProbedPool interface {
	Pool
	// Probe asks the storage itself, and no cache of this host, in one or two short
	// calls. ErrUnavailable says that the pool is not there, or cannot be written to. A
	// full pool is there. Like every call, Probe may hang when the storage does not
	// answer; package bounded is for that.
	Probe(ctx context.Context) (Space, error)
}

// Snapshot is the content that a volume had at one time.
type Snapshot struct {
	Volume, Name string
	Size         int64
	// Allocated is what deleting the snapshot would free at least.
	Allocated int64
	Created   time.Time
}

// Snapshotter is a Pool that keeps former contents of volumes. The caller makes
// sure that nothing writes to the volume during Snapshot and Restore.
type Snapshotter interface {
	// Snapshot keeps the volume's present content under a name. It makes a whole
	// snapshot or none: ErrExists, ErrNotFound, ErrNoSpace, ErrInvalid.
	Snapshot(ctx context.Context, volume, name string) (Snapshot, error)
	// Snapshots lists a volume's snapshots by name.
	Snapshots(ctx context.Context, volume string) ([]Snapshot, error)
	// DeleteSnapshot removes a snapshot. It succeeds if the snapshot does not exist.
	DeleteSnapshot(ctx context.Context, volume, name string) error
	// Restore gives the volume the content and size of the snapshot.
	Restore(ctx context.Context, volume, name string) (Volume, error)
}

// maxName leaves room in a file name for prefixes and suffixes of drivers.
const maxName = 200

// ValidateName returns ErrInvalid if n cannot be the name of a volume or snapshot.
// A valid name is a single path component on any file system.
func ValidateName(n string) error {
	if n == "" || len(n) > maxName {
		return fmt.Errorf("%w: name %.50q has %d characters, not 1 to %d", ErrInvalid, n, len(n), maxName)
	}
	for i, c := range []byte(n) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '-' && c != '_' && c != '.') {
			return fmt.Errorf("%w: name %q: character %q at %d", ErrInvalid, n, c, i)
		}
	}
	return nil
}

// Validate returns ErrInvalid if no pool could create the volume s.
func (s VolumeSpec) Validate() error {
	if err := ValidateName(s.Name); err != nil {
		return err
	}
	switch {
	case s.Size < 0 || s.Size == 0 && s.Source == nil:
		return fmt.Errorf("%w: volume %s: size %d is not positive", ErrInvalid, s.Name, s.Size)
	case s.Size > MaxVolumeSize:
		return fmt.Errorf("%w: volume %s: size %d is more than %d", ErrInvalid, s.Name, s.Size, int64(MaxVolumeSize))
	case s.Format != "" && s.Format != Raw && s.Format != QCOW2:
		return fmt.Errorf("%w: volume %s: format %q", ErrInvalid, s.Name, s.Format)
	}
	if s.Source == nil {
		return nil
	}
	src := *s.Source
	switch {
	case (src.File == "") == (src.Volume == ""):
		return fmt.Errorf("%w: volume %s: a source is a file or a volume", ErrInvalid, s.Name)
	case src.File != "" && src.FileFormat != Raw && src.FileFormat != QCOW2:
		return fmt.Errorf("%w: volume %s: source format %q", ErrInvalid, s.Name, src.FileFormat)
	case src.Snapshot != "" && src.Volume == "":
		return fmt.Errorf("%w: volume %s: snapshot %q of no volume", ErrInvalid, s.Name, src.Snapshot)
	case src.Volume != "" && ValidateName(src.Volume) != nil:
		return fmt.Errorf("source of volume %s: %w", s.Name, ValidateName(src.Volume))
	case src.Snapshot != "" && ValidateName(src.Snapshot) != nil:
		return fmt.Errorf("source of volume %s: %w", s.Name, ValidateName(src.Snapshot))
	}
	return nil
}

// MaxVolumeSize bounds a volume. It is far above what any file system here holds,
// and far below where arithmetic overflows.
const MaxVolumeSize = 1 << 56
