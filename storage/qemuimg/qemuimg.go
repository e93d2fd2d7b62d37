// Package qemuimg identifies disk image files, creates empty images and overlays,
// and grows and converts images with qemu-img.
//
// An image from outside is hostile input. A qcow2 header can name a backing file
// or a data file, and a program that opens the image opens that file too: a host's
// secrets, a device. So the package reads headers itself (Probe, Inspect), without
// another program and without opening another file, and refuses features that a
// self-contained image does not need. qemu-img is always given the format and never
// guesses it. It gets absolute paths, which it cannot take for a URL. It runs with
// limits on memory, time and the size of its files, and in a sandbox if users for it are
// configured: under a uid of its own, without capabilities and without a network.
//
// The result of Probe is valid only when an image comes in. The format of a disk
// that a guest writes to must be stored and never probed again: a guest may write a
// qcow2 header into its raw disk.
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
	// ClusterSize is the cluster size of a qcow2 image, 0 for raw.
	ClusterSize int64
	// BackingFile is the name of the backing file, exactly as in the qcow2 header.
	BackingFile string
	// BackingFormat is the format of the backing file by the header, empty if the
	// header does not give it.
	BackingFormat Format
	// ExternalData says that the guest data of a qcow2 image is in another file,
	// Encrypted that it is encrypted.
	ExternalData, Encrypted bool
	// Dirty says that the image was not closed properly and its reference counts may
	// be stale, Corrupt that QEMU found the image damaged.
	Dirty, Corrupt bool
	// Snapshots counts internal snapshots.
	Snapshots int
	// UnknownFeatures has the bits of incompatible features that this package does
	// not know. A program must not open an image with features that it does not know.
	UnknownFeatures uint64
}
