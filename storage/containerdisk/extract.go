package containerdisk

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/klauspost/compress/zstd"

	"virtmesh/storage/sparse"
)

const (
	diskFolder = "/disk"
	// maxEntries bounds the number of files in one image: empty files cost the sender
	// nothing.
	maxEntries = 200_000
	// maxHiddenBytes bounds the names of deleted files, which are kept in memory.
	maxHiddenBytes = 8 << 20
	// zstdMemory bounds the window that a zstd stream may request.
	zstdMemory = 128 << 20
)

// extraction copies one file out of an image's layers to out.
type extraction struct {
	file string // wanted path, or empty for the only one in /disk
	out  *os.File
	// limit bounds the unpacked bytes of all layers together.
	limit int64
	// reserve is called before a file of that size is written.
	reserve func(size int64) error
	// received is called with the number of compressed bytes that have arrived.
	received func(n int64)

	unpacked int64
	entries  int
	found    string // path of the file that was written
	hidden   map[string]bool
	// hiddenBytes is the length of the names that layers deleted.
	hiddenBytes int
}

// extractFile reads the layers from the top down, so that the first match is the file
// that a container would see. Files that an upper layer deletes are hidden in those
// below.
func (x *extraction) extractFile(ctx context.Context, layers []v1.Layer) error {
	x.hidden = map[string]bool{}
	for i := len(layers) - 1; i >= 0; i-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		if x.found != "" && x.file != "" {
			break
		}
		if err := x.readLayer(ctx, layers[i]); err != nil {
			return err
		}
	}
	if x.found == "" {
		if x.file != "" {
			return fmt.Errorf("%w: it has no file %s", ErrNotAnImage, x.file)
		}
		return fmt.Errorf("%w: it has no file in %s", ErrNotAnImage, diskFolder)
	}
	return nil
}

func (x *extraction) readLayer(ctx context.Context, l v1.Layer) error {
	rc, err := l.Compressed()
	if err != nil {
		return err
	}
	defer rc.Close()
	// The digest is checked only when the layer is read to its end. So it is read
	// beyond the end of the archive, and before a file that was found counts.
	src := &countingReader{r: rc, add: x.received}
	plain, stop, err := decompress(src)
	if err == nil {
		defer stop()
		err = x.readArchive(&boundedReader{ctx: ctx, r: plain, left: x.limit - x.unpacked, read: &x.unpacked})
	}
	var local *fs.PathError // writing here failed
	if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoSpace) || errors.As(err, &local) || ctx.Err() != nil {
		return err
	}
	// A layer that is no archive may be a broken download, and one that is may be
	// forged. So a wrong digest is reported before an error of the content.
	if _, serr := io.Copy(io.Discard, src); serr != nil {
		return serr
	}
	if err != nil && !errors.Is(err, ErrNotAnImage) {
		return fmt.Errorf("%w: a layer is not a whole archive: %w", ErrNotAnImage, err)
	}
	return err
}

// readArchive reads one layer. Whiteouts take effect for the layers below only.
func (x *extraction) readArchive(r io.Reader) error {
	tr := tar.NewReader(r)
	var hide []string
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if x.entries++; x.entries > maxEntries {
			return fmt.Errorf("%w: it has more than %d files", ErrTooLarge, maxEntries)
		}
		name, ok := entryName(h.Name)
		if !ok {
			continue
		}
		if dir, base := path.Split(name); strings.HasPrefix(base, ".wh.") {
			if x.hiddenBytes += len(name); x.hiddenBytes > maxHiddenBytes {
				return fmt.Errorf("%w: the names of files that it deletes have more than %d bytes", ErrTooLarge, maxHiddenBytes)
			}
			if base == ".wh..wh..opq" {
				hide = append(hide, strings.TrimSuffix(dir, "/")+"/*")
			} else if !strings.HasPrefix(base, ".wh..wh.") {
				hide = append(hide, dir+strings.TrimPrefix(base, ".wh."))
			}
			continue
		}
		if err := x.readEntry(tr, h, name); err != nil {
			return err
		}
	}
	for _, p := range hide {
		x.hidden[p] = true
	}
	return nil
}

// entryName makes a name in an archive absolute. Names with ".." are ignored.
func entryName(n string) (string, bool) {
	for _, part := range strings.Split(n, "/") {
		if part == ".." {
			return "", false
		}
	}
	return path.Clean("/" + n), true
}

func (x *extraction) readEntry(tr *tar.Reader, h *tar.Header, name string) error {
	if h.Typeflag == tar.TypeDir || !x.isWanted(name) || x.isHidden(name) {
		return nil
	}
	if x.found == name {
		return nil // an upper layer has it
	}
	if x.found != "" {
		return fmt.Errorf("%w: %s has more than one file: %s and %s", ErrNotAnImage, diskFolder,
			path.Base(x.found), path.Base(name))
	}
	if h.Typeflag != tar.TypeReg {
		return fmt.Errorf("%w: %s is not a regular file", ErrNotAnImage, name)
	}
	if h.Size > x.limit {
		return fmt.Errorf("%w: %s has %d bytes, the limit is %d", ErrTooLarge, name, h.Size, x.limit)
	}
	if err := x.reserve(h.Size); err != nil {
		return err
	}
	n, err := sparse.Write(x.out, tr)
	if err != nil {
		return err
	}
	if n != h.Size {
		return fmt.Errorf("%w: %s has %d bytes of %d", ErrNotAnImage, name, n, h.Size)
	}
	x.found = name
	return nil
}

func (x *extraction) isWanted(name string) bool {
	if x.file != "" {
		return name == path.Clean("/"+x.file)
	}
	return path.Dir(name) == diskFolder && !strings.HasPrefix(path.Base(name), ".")
}

// isHidden reports whether an upper layer deleted name or a folder above it.
func (x *extraction) isHidden(name string) bool {
	for p := name; p != "/"; p = path.Dir(p) {
		if x.hidden[p] || x.hidden[strings.TrimSuffix(path.Dir(p), "/")+"/*"] {
			return true
		}
	}
	return false
}

// decompress finds out the compression from the first bytes, because media types are
// often wrong.
func decompress(r io.Reader) (io.Reader, func(), error) {
	br := bufio.NewReaderSize(r, 256<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, nil, err
		}
		return z, func() { z.Close() }, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxMemory(zstdMemory), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return br, func() {}, nil
}

// countingReader reports the number of bytes that were read through it.
type countingReader struct {
	r   io.Reader
	add func(int64)
}

// Read implements io.Reader.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.add(int64(n))
	return n, err
}

// boundedReader returns an error, not io.EOF, when more than its limit is read.
type boundedReader struct {
	ctx  context.Context // of the pull; a decompression bomb unpacks for long without reading
	r    io.Reader
	left int64
	read *int64
}

// Read implements io.Reader.
func (b *boundedReader) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	if b.left <= 0 {
		// An archive that ends exactly at the bound is within it.
		n, err := b.r.Read(p[:min(len(p), 1)])
		if n > 0 {
			return 0, fmt.Errorf("%w: its layers unpack to more than the limit", ErrTooLarge)
		}
		return 0, err
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	*b.read += int64(n)
	return n, err
}
