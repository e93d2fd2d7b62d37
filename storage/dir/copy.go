package dir

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
	holeBlock = 64 << 10
)

// copySparse copies the file from to a new file at to: by sharing its blocks
// where the file system can, else byte by byte without holes and zeros.
func copySparse(ctx context.Context, to, from string, progress func(done, total int64)) (err error) {
	src, err := os.OpenFile(from, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return missingSource(err)
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
	defer dst.Close()
	if progress == nil {
		progress = func(int64, int64) {}
	}
	size := fi.Size()
	if unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) == nil {
		progress(size, size)
		return nil
	}
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
		return off, size, nil // a file system that does not tell of holes
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

// openedByQEMU says whether some process locks bytes of a disk, as QEMU does with
// every image it opens. Where that cannot be told, it says no.
func openedByQEMU(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	l := unix.Flock_t{Type: unix.F_WRLCK}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return false
	}
	return l.Type != unix.F_UNLCK
}
