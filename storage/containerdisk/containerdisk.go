// Package containerdisk pulls disk images that are distributed as container images,
// which KubeVirt calls containerDisks, and caches them on the host.
//
// A pull resolves a reference to a digest, finds the disk file in the layers, and
// writes only that file while the layers stream in. An image in the cache is a
// verified, self-contained raw or qcow2 image that is never written to again:
// guests run on overlays above it. The cache is addressed by content: two
// references to one digest share one file, and concurrent pulls of the same image
// share one download.
//
// Registries and images are hostile input. Names in an archive are compared, never
// used as paths. Sizes are bounded before and during a download. Digests are checked
// before a file becomes visible. A transfer from a registry that stops sending, or
// sends too slowly, is cancelled. Images that refer to other files are refused
// (package qemuimg).
//
// Invariants: an image under images/ is whole; an image that is in use (held by a
// caller, or opened by QEMU) is never evicted; the cache never grows over MaxBytes.
// After a crash, New removes unfinished downloads. A download that fails starts from
// the beginning, it is not resumed.
//
// The package knows nothing of virtual machines and stores no credentials. Only one
// process may use a cache folder.
package containerdisk

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/storage/fetch"
)

// The error classes of a pull. An error of Pull names the image and wraps one of
// these or a context's error, unless this host's file system failed otherwise.
var (
	// ErrBadReference says that the reference is not the name of an image.
	ErrBadReference = errors.New("not an image reference")
	// ErrImageNotFound says that the registry has no such image.
	ErrImageNotFound = errors.New("image not found")
	// ErrUnauthorized says that the registry requires credentials, or refused those
	// that it got.
	ErrUnauthorized = errors.New("registry denied access")
	// ErrRegistryUnavailable says that the registry could not be reached or failed.
	ErrRegistryUnavailable = errors.New("registry unavailable")
	// ErrRegistryTimeout says that the registry stopped sending.
	ErrRegistryTimeout = errors.New("registry stalled")
	// ErrCorrupt says that the registry sent content that does not match its digest.
	ErrCorrupt = errors.New("image content does not match its digest")
	// ErrNotAnImage says that the container image holds no usable disk image.
	ErrNotAnImage = errors.New("not a containerDisk")
	// ErrArchitecture says that the image is for machines of another architecture.
	ErrArchitecture = errors.New("image is for another architecture")
	// ErrTooLarge says that the image exceeds a limit on sizes.
	ErrTooLarge = errors.New("image is too large")
	// ErrNoSpace says that the disk is full, or that the cache is full of images
	// in use.
	ErrNoSpace = errors.New("no space for image")
	// ErrNotPresent says that policy Never found no image on the host.
	ErrNotPresent = errors.New("image is not on this host and may not be pulled")
	// ErrClosed says that the cache was closed.
	ErrClosed = errors.New("image cache is closed")
)

// Policy says when a registry is asked. The names are Kubernetes'.
type Policy string

// Always asks the registry which image the reference names now, and downloads it only
// if it is not there. IfNotPresent takes the image last pulled by that reference. Never
// does the same, and fails if there is none. Both ask the registry of an image that is not
// public whether it accepts the credentials (type access). The empty policy is Always for the tag
// latest and IfNotPresent for everything else.
const (
	Always       Policy = "Always"
	IfNotPresent Policy = "IfNotPresent"
	Never        Policy = "Never"
)

// Image is a disk image on this host.
type Image struct {
	// Ref is the reference that the caller of Pull gave.
	Ref string
	// Digest is the digest of the container image (or index) that Ref named.
	Digest string
	// Path is the file, to be opened for reading only.
	Path string
	// Format is "raw" or "qcow2", or empty for a file pulled with AnyFile.
	Format string
	// VirtualSize is the size of the disk in bytes.
	VirtualSize int64
	// FileSize is the length of the file in bytes.
	FileSize int64
}

// PullOptions are the options of one pull.
type PullOptions struct {
	Policy Policy
	// File is the path of the wanted file in the container image. Empty takes
	// the only file in /disk.
	File string
	// AnyFile accepts any content, for kernels and initramfs. It needs File.
	AnyFile bool
	// PullSecrets are contents of secrets of type
	// kubernetes.io/dockerconfigjson, tried in turn for one that names the registry.
	PullSecrets [][]byte
	// Progress, if set, is called with the number of bytes downloaded and their
	// total. It is called from another goroutine, one call at a time, and must return
	// quickly.
	Progress func(done, total int64)
}

// Config describes a cache.
type Config struct {
	// Dir is the cache's own folder.
	Dir string
	// MaxBytes limits the space that the cache's files occupy.
	MaxBytes int64
	// MaxImageBytes limits the file of one image, and the unpacked layers of one image
	// together.
	MaxImageBytes int64
	// MaxVirtualSize limits the size of the disk that a guest sees.
	MaxVirtualSize int64
	// MinFreeBytes is the space that the cache leaves free on the file system.
	MinFreeBytes int64
	// InsecureRegistries lists host[:port] of registries that may be used without TLS
	// or with a certificate that cannot be verified.
	InsecureRegistries []string
	// InternalRegistries lists host[:port] of registries with TLS that may be used whatever
	// Check says of their addresses.
	InternalRegistries []string
	// Check judges the addresses of all other registries, and of those to which a registry
	// leads; nil is that of a zero fetch.Guard.
	Check fetch.Check
	// StallTimeout is how long a registry may take to send 16 KiB; a slower transfer
	// is cancelled.
	StallTimeout time.Duration
	// GID is the group of the files, so that an unprivileged QEMU in that group can
	// read them and others cannot; with -1 everybody can.
	GID int
	Log *slog.Logger
	// Registerer gets the cache's metrics; nil registers none.
	Registerer prometheus.Registerer
}

// DefaultConfig returns the settings of a cache in dir of at most 100 GiB.
func DefaultConfig(dir string) Config {
	return Config{
		Dir:            dir,
		MaxBytes:       100 << 30,
		MaxImageBytes:  64 << 30,
		MaxVirtualSize: 16 << 40,
		MinFreeBytes:   1 << 30,
		StallTimeout:   60 * time.Second,
		GID:            -1,
		Log:            slog.New(slog.DiscardHandler),
	}
}

// Validate returns an error that names an invalid field of c.
func (c Config) Validate() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("containerdisk: Dir %q is not an absolute path", c.Dir)
	case c.MaxBytes <= 0:
		return fmt.Errorf("containerdisk: MaxBytes %d is not positive", c.MaxBytes)
	case c.MaxImageBytes <= 0:
		return fmt.Errorf("containerdisk: MaxImageBytes %d is not positive", c.MaxImageBytes)
	case c.MaxVirtualSize <= 0:
		return fmt.Errorf("containerdisk: MaxVirtualSize %d is not positive", c.MaxVirtualSize)
	case c.MinFreeBytes < 0:
		return fmt.Errorf("containerdisk: MinFreeBytes %d is negative", c.MinFreeBytes)
	case c.StallTimeout <= 0:
		return fmt.Errorf("containerdisk: StallTimeout %s is not positive", c.StallTimeout)
	case c.Log == nil:
		return errors.New("containerdisk: Log is not set")
	}
	for field, list := range map[string][]string{"InsecureRegistries": c.InsecureRegistries, "InternalRegistries": c.InternalRegistries} {
		for _, r := range list {
			if r == "" || strings.Contains(r, "/") {
				return fmt.Errorf("containerdisk: %s: %q is not a host[:port]", field, r)
			}
		}
	}
	return nil
}

func (o PullOptions) validate() error {
	switch o.Policy {
	case "", Always, IfNotPresent, Never:
	default:
		return fmt.Errorf("pull policy %q is none of Always, IfNotPresent, Never", o.Policy)
	}
	if o.AnyFile && o.File == "" {
		return errors.New("AnyFile needs File: name the file in the image")
	}
	return nil
}
