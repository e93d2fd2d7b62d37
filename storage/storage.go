// Package storage is the contract between the mesh and what keeps virtual disks:
// pools of volumes on a host.
//
// # Life of a volume
//
// Create makes a volume whole or not at all: one that Get finds has its full
// size, and its content if it was made from a source. A caller that does not know
// whether its Create succeeded calls it again; the second call says ErrExists, and
// Get says what is there. A volume is raw or qcow2 for all its life, as it was
// created: its format is remembered and never read off its content, because a
// guest writes that. Its size is a multiple of SizeAlignment: a pool rounds up what
// it is asked for. Expand makes it larger, never smaller. Delete ends it; a
// volume that is not there is deleted already.
//
// A pool does not know which virtual machine uses a volume, and does not stop
// two from using one: claims do that, in the replicated store. A driver that can
// see that one is open refuses to delete it all the same. What a pool does promise is that its own operations, at
// once and from several hosts where Capabilities.Shared says so, leave every
// volume whole.
//
// # Interfaces
//
// A driver implements Pool. What only some drivers can do is an interface of its
// own (Snapshotter), and Capabilities says beforehand what there is, so that
// placement can ask without calling. Callers test errors with errors.Is against
// the classes here.
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
	// ErrInvalid says that an argument can never be right.
	ErrInvalid = errors.New("invalid")
	// ErrNoSpace says that the pool has no room.
	ErrNoSpace = errors.New("no space left in pool")
	// ErrBusy says that another operation on the volume is under way, or that a
	// virtual machine has it open.
	ErrBusy = errors.New("volume is busy")
	// ErrUnsupported says that the driver cannot do this.
	ErrUnsupported = errors.New("not supported by this pool")
	// ErrUnsafeSource says that a source is no disk image or not a self-contained one.
	ErrUnsafeSource = errors.New("source is not a usable disk image")
	// ErrUnavailable says that what holds the pool's volumes is not there, such as
	// a file system that is not mounted. It says nothing about the volumes.
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
	// Snapshots says that the pool is a Snapshotter.
	Snapshots bool
	// FastClone says that a volume made from another shares its unchanged
	// content, so that it takes no time and no space to begin with.
	FastClone bool
	// Thin volumes occupy what is written, not what they are long.
	Thin bool
	// Formats that volumes may have, the default first.
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
	// Capacity and Free are of the file system or device below.
	Capacity, Free int64
	// Provisioned is the sum of the volumes' sizes, Allocated what they occupy.
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
	// Preallocate occupies the whole size at once, as far as the driver can.
	Preallocate bool
	// Source is the content to begin with; nil is zeros.
	Source *Source
	// Progress, if set, hears how many bytes of how many have been copied from
	// the source. It may be called from another goroutine, one call at a time.
	Progress func(done, total int64)
}

// Source is where a volume's first content comes from: exactly one of a file, a
// volume, and a snapshot of a volume of the same pool. It must not change
// meanwhile.
type Source struct {
	// File is a disk image on this host, of format FileFormat. It is checked to
	// be self-contained: it may come from outside.
	File       string
	FileFormat Format
	// Volume is another volume's name, and Snapshot one of its snapshots.
	Volume, Snapshot string
}

// Volume is a volume as it is.
type Volume struct {
	Name   string
	Format Format
	// Size is the size of the virtual disk, Allocated what the volume occupies.
	Size, Allocated int64
	// Path is what a virtual machine on this host opens.
	Path    string
	Created time.Time
}

// Pool is a place for volumes. All methods may be called at once from many
// goroutines; operations on one volume are done one after the other, and those
// that copy content block for as long as that takes or ctx lasts.
type Pool interface {
	// Info does not block and never changes.
	Info() Info
	// Create makes a volume, or leaves no trace: ErrExists, ErrInvalid,
	// ErrNoSpace, ErrNotFound (a source that is not there), ErrUnsafeSource.
	Create(ctx context.Context, spec VolumeSpec) (Volume, error)
	// Get returns a volume or ErrNotFound.
	Get(ctx context.Context, name string) (Volume, error)
	// List returns all volumes by name.
	List(ctx context.Context) ([]Volume, error)
	// Delete removes a volume and its snapshots, also when there is no space left.
	// It is no error if there is none. ErrBusy says that a virtual machine has it
	// open.
	Delete(ctx context.Context, name string) error
	// Expand makes a volume at least AlignSize(size) bytes large. A volume that is larger
	// already stays as it is. ErrBusy says that a virtual machine has it open.
	Expand(ctx context.Context, name string, size int64) (Volume, error)
	// Usage counts bytes. It may be as old as a few seconds.
	Usage(ctx context.Context) (Usage, error)
	// Close waits for operations under way. Volumes stay.
	Close() error
}

// Snapshot is the content a volume had.
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
	// Snapshot keeps the volume's present content under a name, whole or not at
	// all: ErrExists, ErrNotFound, ErrNoSpace, ErrInvalid.
	Snapshot(ctx context.Context, volume, name string) (Snapshot, error)
	// Snapshots lists a volume's snapshots by name.
	Snapshots(ctx context.Context, volume string) ([]Snapshot, error)
	// DeleteSnapshot removes one. It is no error if there is none.
	DeleteSnapshot(ctx context.Context, volume, name string) error
	// Restore gives the volume the content and size it had.
	Restore(ctx context.Context, volume, name string) (Volume, error)
}

// maxName leaves room in a file name for what drivers add.
const maxName = 200

// ValidateName says whether a volume or snapshot may be called n. A name that
// passes is one path component on any file system.
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

// Validate says what no pool could make of s.
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
