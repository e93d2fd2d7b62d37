// Package sparse copies disk images and skips what needs no copy: blocks of zeros
// become holes, holes stay holes, and where the file system can share blocks
// between files nothing is copied at all.
//
// It does not know image formats and does not sync files to disk.
package sparse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	copyBlock = 1 << 20
	holeBlock = 64 << 10 // zeros are found in blocks of this size
)

// Write copies r to the empty file f, gives f the length of r, and returns that
// length. It stops at the end of r or at the first error.
func Write(f *os.File, r io.Reader) (int64, error) {
	buf := make([]byte, copyBlock)
	var off int64
	for {
		n, err := fillBuffer(r, buf)
		if werr := writeData(f, buf[:n], off); werr != nil {
			return off, werr
		}
		off += int64(n)
		if errors.Is(err, io.EOF) {
			return off, f.Truncate(off)
		}
		if err != nil {
			return off, err
		}
	}
}

// fillBuffer reads until buf is full or r ends. Unlike io.ReadFull it does not return
// io.ErrUnexpectedEOF for a short last block: readers of broken content return
// that error, and Write must not take it for the end.
func fillBuffer(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

// Copy copies the regular file from to a new file at to. If it fails, an incomplete
// file may remain at to. progress may be nil.
func Copy(ctx context.Context, to, from string, progress func(done, total int64)) (err error) {
	src, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	fi, err := src.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", from)
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := dst.Close(); err == nil {
			err = cerr
		}
	}()
	if progress == nil {
		progress = func(int64, int64) {}
	}
	if Clone(dst, src) {
		progress(fi.Size(), fi.Size())
		return nil
	}
	return copyData(ctx, dst, src, fi.Size(), progress)
}

// Clone makes dst share src's blocks and reports whether the file system can do so.
func Clone(dst, src *os.File) bool {
	return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil
}

func copyData(ctx context.Context, dst, src *os.File, size int64, progress func(done, total int64)) error {
	if err := dst.Truncate(size); err != nil {
		return err
	}
	buf := make([]byte, copyBlock)
	for off := int64(0); off < size; {
		start, end, err := nextData(src, off, size)
		if err != nil {
			return err
		}
		for off = start; off < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := src.ReadAt(buf[:min(copyBlock, end-off)], off)
			if err != nil && !(errors.Is(err, io.EOF) && n > 0) {
				return err
			}
			if err := writeData(dst, buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
			progress(off, size)
		}
	}
	progress(size, size)
	return nil
}

// nextData returns where data begins at or after off and where it ends; both are
// size if there is none.
func nextData(f *os.File, off, size int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, syscall.ENXIO) {
		return size, size, nil
	}
	if errors.Is(err, syscall.EINVAL) {
		return off, size, nil // the file system does not report holes
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, err
	}
	return start, min(end, size), nil
}

// writeData writes b at off, leaving out blocks of zeros.
func writeData(f *os.File, b []byte, off int64) error {
	var zero [holeBlock]byte
	for len(b) > 0 {
		n := min(len(b), holeBlock)
		if !bytes.Equal(b[:n], zero[:n]) {
			if _, err := f.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}
