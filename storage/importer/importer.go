// Package importer turns content that users import (a URL, an upload) into a disk
// image that a pool can make a volume from. It fetches, unpacks and checks the
// content, with limits on its size.
//
// Input is hostile. It may be endless, stall, unpack to more than any disk, not match
// its checksum, or be an image that refers to files of this host. In each of these
// cases the import returns an error of a class below and leaves no file behind.
//
// An image may be compressed with gzip, zstd or xz. Its first bytes tell which, since
// names and media types are often wrong. The program xz unpacks xz content, under a
// limit on memory and, if this process is root, in a sandbox.
//
// The package makes no volumes and does not know DataVolumes. An import that fails
// starts from the beginning, it is not resumed.
package importer

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"virtmesh/storage/fetch"
	"virtmesh/storage/qemuimg"
	"virtmesh/storage/sparse"
)

var (
	// ErrNotAnImage says that the content is no usable disk image.
	ErrNotAnImage = errors.New("not a usable disk image")
	// ErrTooLarge says that the image, or its disk, is larger than the limit.
	ErrTooLarge = errors.New("image is too large")
	// ErrChecksum says that the content does not match the checksum.
	ErrChecksum = errors.New("checksum does not match")
	// ErrNoSpace says that the disk here is full.
	ErrNoSpace = errors.New("no space for image")
	// ErrSource says that the server refused or failed.
	ErrSource = errors.New("source failed")
	// ErrStalled says that the server stopped sending.
	ErrStalled = errors.New("source stalled")
	// ErrInvalid says that the request is invalid; it can never succeed.
	ErrInvalid = errors.New("invalid import")
)

// Options bounds and describes an import.
type Options struct {
	// MaxBytes bounds the unpacked file, MaxVirtualSize the disk in it. Required.
	MaxBytes, MaxVirtualSize int64
	// Checksum is "sha256:<hex>" or "sha512:<hex>" of the content as it is sent,
	// before it is unpacked. Empty checks nothing.
	Checksum string
	// Progress, if set, is called with the number of bytes received and their total,
	// which is -1 while it is not known.
	Progress func(done, total int64)
}

func (o Options) validate() error {
	if o.MaxBytes <= 0 || o.MaxVirtualSize <= 0 {
		return fmt.Errorf("%w: limits %d and %d are not positive", ErrInvalid, o.MaxBytes, o.MaxVirtualSize)
	}
	_, _, err := parseChecksum(o.Checksum)
	return err
}

// Result describes an imported image.
type Result struct {
	Path        string
	Format      qemuimg.Format
	VirtualSize int64
	// SHA256 is the digest of the content as it was sent.
	SHA256 string
}

// Stream imports the disk image in r into a new file at path. size is the number of
// bytes that r will return, -1 if it is not known. Stream reads r to its end and does
// not close it. When ctx ends, Stream returns after the current call of r.
func Stream(ctx context.Context, r io.Reader, size int64, path string, o Options) (Result, error) {
	res, err := stream(ctx, r, size, path, o)
	if err != nil {
		return Result{}, fetch.Told(fmt.Errorf("import into %s: %w", filepath.Base(path), classify(err)))
	}
	return res, nil
}

func stream(ctx context.Context, r io.Reader, size int64, path string, o Options) (_ Result, err error) {
	if err := o.validate(); err != nil {
		return Result{}, err
	}
	algorithm, want, err := parseChecksum(o.Checksum)
	if err != nil {
		return Result{}, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return Result{}, err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(path)
		}
	}()
	sums := []hash.Hash{sha256.New()}
	if algorithm == "sha512" {
		sums = append(sums, sha512.New())
	}
	src := &source{ctx: ctx, r: r, total: size, sums: sums, progress: o.Progress}
	if err := unpackInto(ctx, f, src, o.MaxBytes); err != nil {
		return Result{}, err
	}
	// The checksum covers everything that was sent, also what follows the end of the
	// compressed stream.
	if _, err := io.Copy(io.Discard, src); err != nil {
		return Result{}, err
	}
	if size >= 0 && src.done != size {
		return Result{}, fmt.Errorf("%w: it sent %d bytes of %d", ErrSource, src.done, size)
	}
	if got := hex.EncodeToString(sums[len(sums)-1].Sum(nil)); want != "" && got != want {
		return Result{}, fmt.Errorf("%w: it is %s:%s", ErrChecksum, algorithm, got)
	}
	if err := f.Sync(); err != nil {
		return Result{}, err
	}
	info, err := qemuimg.Inspect(path, qemuimg.Limits{MaxVirtualSize: o.MaxVirtualSize})
	if err != nil {
		return Result{}, err
	}
	return Result{Path: path, Format: info.Format, VirtualSize: info.VirtualSize, SHA256: hex.EncodeToString(sums[0].Sum(nil))}, nil
}

func unpackInto(ctx context.Context, f *os.File, src io.Reader, limit int64) error {
	plain, stop, err := unpack(ctx, src)
	if err != nil {
		return err
	}
	_, err = sparse.Write(f, &limited{r: plain, left: limit})
	if serr := stop(); err == nil {
		err = serr
	}
	return err
}

// source reads the content as it is sent. It counts the bytes, computes the checksum,
// and ends with ctx.
type source struct {
	ctx      context.Context // of the import
	r        io.Reader
	done     int64
	told     int64
	total    int64
	sums     []hash.Hash
	progress func(done, total int64)
}

// progressEvery is how many bytes pass between calls of Progress.
const progressEvery = 1 << 20

// sourceError marks an error of the source, to tell it from errors of writing and
// unpacking.
type sourceError struct{ err error }

// Error implements error.
func (e *sourceError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *sourceError) Unwrap() error { return e.err }

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	for _, h := range s.sums {
		h.Write(p[:n])
	}
	s.done += int64(n)
	if s.progress != nil && (s.done-s.told >= progressEvery || errors.Is(err, io.EOF)) {
		s.told = s.done
		s.progress(s.done, s.total)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = &sourceError{err}
	}
	return n, err
}

// limited returns an error, not io.EOF, when more than its limit is read.
type limited struct {
	r    io.Reader
	left int64
}

// Read implements io.Reader.
func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

func parseChecksum(s string) (algorithm, want string, err error) {
	if s == "" {
		return "", "", nil
	}
	algorithm, want, _ = strings.Cut(strings.ToLower(s), ":")
	length := map[string]int{"sha256": sha256.Size, "sha512": sha512.Size}[algorithm]
	if b, err := hex.DecodeString(want); length == 0 || err != nil || len(b) != length {
		return "", "", fmt.Errorf("%w: checksum %.200q is neither sha256:<hex> nor sha512:<hex>", ErrInvalid, s)
	}
	return algorithm, want, nil
}
