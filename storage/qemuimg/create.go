package qemuimg

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"virtmesh/storage"
)

// New images are written by this package and not by qemu-img: to start a program twice
// for each virtual machine would cost more than everything else about its disks.

// The shape of a new qcow2 image: version 3, clusters of 64 KiB, reference counts
// of 16 bits, as qemu-img makes it. Its clusters are, in order, the header, the
// reference count table, one reference count block, and the L1 table.
const (
	newClusterBits  = 16
	newCluster      = 1 << newClusterBits
	newL1Reach      = newCluster / 8 * newCluster // bytes of disk an L1 entry leads to
	newHeaderLength = 112
	newL1Cluster    = 3
)

// Create makes an image of storage.AlignSize(size) bytes with no data at path, which
// must not exist.
func Create(path string, f Format, size int64) error {
	if err := checkPath(path); err != nil {
		return fmt.Errorf("create disk image: %w", err)
	}
	if size <= 0 {
		return fmt.Errorf("create disk image %s: size %d is not positive", path, size)
	}
	switch f {
	case Raw:
		return writeImage(path, nil, storage.AlignSize(size))
	case QCOW2:
		return createQCOW2(path, size, "", "")
	}
	return fmt.Errorf("create disk image %s: %w: %q", path, ErrFormat, f)
}

// CreateOverlay makes a qcow2 image at path, which must not exist, with the image at
// backing (format bf) as its backing file. size is the overlay's size in bytes,
// which storage.AlignSize rounds up; 0 takes the size of the backing image. backing
// may be relative to path's folder, so that a folder can be moved as a whole. The
// header contains backing as it is given, and QEMU will open that file, so the
// caller must trust it.
func CreateOverlay(path, backing string, bf Format, size int64) error {
	if err := checkPath(path); err != nil {
		return fmt.Errorf("create overlay: %w", err)
	}
	if backing == "" || len(backing) > maxBackingName || strings.ContainsRune(backing, 0) {
		return fmt.Errorf("create overlay %s: backing file name %q", path, backing)
	}
	at := backing
	if !filepath.IsAbs(backing) {
		if strings.ContainsRune(backing, ':') {
			// QEMU takes the text before a colon for a protocol.
			return fmt.Errorf("create overlay %s: backing file %q has a colon and is relative", path, backing)
		}
		at = filepath.Join(filepath.Dir(path), backing)
	}
	base, err := diskSize(at, bf)
	if err != nil {
		return fmt.Errorf("create overlay %s: backing file: %w", path, err)
	}
	if size == 0 {
		size = base
	}
	if size < base {
		return fmt.Errorf("create overlay %s: size %d is less than the %d bytes of the backing file", path, size, base)
	}
	return createQCOW2(path, size, backing, bf)
}

// diskSize returns the size of the disk in a trusted image.
func diskSize(path string, f Format) (int64, error) {
	switch f {
	case Raw:
		info, err := os.Stat(path)
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	case QCOW2:
		info, err := probeFile(path)
		if err == nil && info.Format != QCOW2 {
			err = fmt.Errorf("%w: it is not a qcow2 image", ErrFormat)
		}
		return info.VirtualSize, err
	}
	return 0, fmt.Errorf("%w: %q", ErrFormat, f)
}

// probeFile is Probe of the image at path.
func probeFile(path string) (Info, error) {
	file, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Info{}, err
	}
	return Probe(file, info.Size())
}

func createQCOW2(path string, size int64, backing string, bf Format) error {
	size = storage.AlignSize(size)
	entries := (size + newL1Reach - 1) / newL1Reach
	if entries*8 > maxL1Bytes {
		return fmt.Errorf("create disk image %s: %w: %d bytes", path, ErrTooLarge, size)
	}
	l1 := (entries*8 + newCluster - 1) / newCluster
	b := make([]byte, newL1Cluster*newCluster)
	be := binary.BigEndian
	copy(b, qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], newClusterBits)
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32(entries))
	be.PutUint64(b[40:], newL1Cluster*newCluster)
	be.PutUint64(b[48:], newCluster)
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], newHeaderLength)
	if backing != "" {
		at := newHeaderLength
		be.PutUint32(b[at:], extensionBackingFormat)
		be.PutUint32(b[at+4:], uint32(len(bf)))
		copy(b[at+8:], bf)
		at += 8 + (len(bf)+7)/8*8 + 8 // the end mark is zeros
		be.PutUint64(b[8:], uint64(at))
		be.PutUint32(b[16:], uint32(len(backing)))
		copy(b[at:], backing)
	}
	be.PutUint64(b[newCluster:], 2*newCluster)
	for i := range newL1Cluster + l1 {
		be.PutUint16(b[2*newCluster+2*i:], 1)
	}
	return writeImage(path, b, (newL1Cluster+l1)*newCluster)
}

// writeImage makes a file of size bytes that begins with head.
func writeImage(path string, head []byte, size int64) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("create disk image: %w", err)
	}
	_, err = f.Write(head)
	if err == nil {
		err = f.Truncate(size)
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		os.Remove(path)
		return fmt.Errorf("create disk image: %w", classifyNoSpace(err))
	}
	return nil
}

func classifyNoSpace(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	if errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}
