// Package qemuimg says what a disk image file is, makes empty images and overlays,
// and grows and converts images with QEMU's tool.
//
// An image from outside is hostile input. A qcow2 header can name a backing file
// or a data file, and whoever opens the image opens that file too: a host's
// secrets, a device. So the package reads headers itself (Probe, Inspect), with no
// other program and no other file involved, and refuses what a self-contained
// image does not need. qemu-img is only ever told a format, never asked to guess
// it, gets absolute paths (which it cannot take for a URL), and runs with bounds
// on memory and time, and as an unprivileged user where there is one for it.
//
// What Probe says holds for images at the moment they come in. The format of a
// disk that a guest writes to must be remembered, never probed again: a guest may
// write a qcow2 header into its raw disk.
package qemuimg

import (
	"errors"
)

// Format is an image format that guests run on.
type Format string

// The formats virtual machines may use. KubeVirt knows no others.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

var (
	// ErrFormat says that the file is an image of a format that is not
	// supported, or a broken one.
	ErrFormat = errors.New("unsupported or broken disk image")
	// ErrUnsafe says that the image refers to other files, is encrypted, or asks
	// for features that are not known to be harmless.
	ErrUnsafe = errors.New("disk image is not self-contained")
	// ErrTooLarge says that the virtual disk is larger than the limit.
	ErrTooLarge = errors.New("disk image is too large")
	// ErrNoSpace says that the file system had no room for the result.
	ErrNoSpace = errors.New("no space left for disk image")
)

// Info describes an image. Sizes are bytes.
type Info struct {
	Format Format
	// VirtualSize is the size of the disk the guest sees.
	VirtualSize int64
	// FileSize is the length of the file; with holes it occupies less.
	FileSize int64
	// ClusterSize is the qcow2 cluster, 0 for raw.
	ClusterSize int64
	// BackingFile is what a qcow2 header names as its base, as it stands there.
	BackingFile string
	// BackingFormat is the format the header gives the base, empty if it is left
	// to be guessed.
	BackingFormat Format
	// ExternalData and Encrypted say that a qcow2's guest data is in another
	// file, or is encrypted.
	ExternalData, Encrypted bool
	// Dirty says that the image was not closed and its reference counts may be
	// stale; Corrupt that QEMU found it damaged.
	Dirty, Corrupt bool
	// Snapshots counts internal snapshots.
	Snapshots int
	// UnknownFeatures has the bits of incompatible features this package does
	// not know, which no program that does not know them may open.
	UnknownFeatures uint64
}
