// Package containerdisk fetches disk images that travel as container images,
// which KubeVirt calls containerDisks, and keeps them on the host.
//
// A pull resolves a reference to a digest, finds the disk file among the layers,
// and writes only that file, as it streams by. What lands in the cache is a
// verified, self-contained raw or qcow2 image that nothing will write to again:
// guests run on overlays above it. The cache is addressed by content: two
// references to one digest share one file, and pulls of the same image that
// overlap share one download.
//
// Registries and images are hostile input. Names in an archive are compared,
// never used as paths; sizes are bounded before and while bytes arrive; digests
// are checked before a file becomes visible; a registry that stops sending, or
// only trickles, is given up; images that refer to other files are refused
// (package qemuimg).
//
// Invariants: an image under images/ is whole; one that is in use (held by a
// caller, or opened by QEMU) is never evicted; the cache never grows over
// MaxBytes. After a crash, New removes what was unfinished. A broken download
// is begun anew, not resumed.
//
// The package decides nothing about virtual machines, keeps no credentials, and
// does not run on two processes in one folder.
package containerdisk

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What a pull can fail with. Errors wrap one of these, or a context's error, and
// name the image.
var (
	// ErrBadReference says that the reference is not the name of an image.
	ErrBadReference = errors.New("not an image reference")
	// ErrImageNotFound says that the registry has no such image.
	ErrImageNotFound = errors.New("image not found")
	// ErrUnauthorized says that the registry wants credentials, or other ones.
	ErrUnauthorized = errors.New("registry denied access")
	// ErrRegistryUnavailable says that the registry could not be reached or failed.
	ErrRegistryUnavailable = errors.New("registry unavailable")
	// ErrRegistryTimeout says that the registry stopped sending.
	ErrRegistryTimeout = errors.New("registry stalled")
	// ErrCorrupt says that the registry sent something other than what the
	// digest promised.
	ErrCorrupt = errors.New("image content does not match its digest")
	// ErrNotAnImage says that the container image holds no usable disk image.
	ErrNotAnImage = errors.New("not a containerDisk")
	// ErrArchitecture says that the image is for machines of another architecture.
	ErrArchitecture = errors.New("image is for another architecture")
	// ErrTooLarge says that a bound on sizes was passed.
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

// Always asks the registry which image the reference names now, and downloads
// it only if it is not there. IfNotPresent takes the image last pulled by that
// reference. Never does so and fails if there is none. The empty policy is
// Always for the tag latest and IfNotPresent for everything else.
const (
	Always       Policy = "Always"
	IfNotPresent Policy = "IfNotPresent"
	Never        Policy = "Never"
)

// Image is a disk image on this host.
type Image struct {
	// Ref is the reference it was asked for by.
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

// PullOptions says how one pull is made.
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
	// Progress, if set, hears how many bytes of how many have been downloaded.
	// It is called from another goroutine, one call at a time, and must be quick.
	Progress func(done, total int64)
}

// Config is what a cache is made from.
type Config struct {
	// Dir is the cache's own folder.
	Dir string
	// MaxBytes bounds what the cache's files occupy.
	MaxBytes int64
	// MaxImageBytes bounds the file of one image, and the unpacked layers it is
	// found in.
	MaxImageBytes int64
	// MaxVirtualSize bounds the disk a guest would see.
	MaxVirtualSize int64
	// MinFreeBytes is left free on the file system.
	MinFreeBytes int64
	// InsecureRegistries are host[:port] of registries that may be spoken to
	// without TLS or with a certificate that cannot be verified.
	InsecureRegistries []string
	// StallTimeout gives up a registry that sends less than 16 KiB in this time.
	StallTimeout time.Duration
	// GID owns the files, so that an unprivileged QEMU in that group reads them
	// and others do not; -1 leaves them to everyone.
	GID int
	// Transport reaches registries; nil is the library's default.
	Transport http.RoundTripper
	Log       *slog.Logger
	// Registerer gets the cache's metrics; nil counts for nobody.
	Registerer prometheus.Registerer
}

// DefaultConfig is a cache in dir of at most 100 GiB.
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

// Validate says what is wrong with c, by field.
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
	for _, r := range c.InsecureRegistries {
		if r == "" || strings.Contains(r, "/") {
			return fmt.Errorf("containerdisk: InsecureRegistries: %q is not a host[:port]", r)
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
		return errors.New("a file that is not a disk must be named")
	}
	return nil
}
