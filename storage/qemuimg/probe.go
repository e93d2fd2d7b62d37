package qemuimg

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Bits of the incompatible features of qcow2 version 3.
const (
	featureDirty           = 1 << 0
	featureCorrupt         = 1 << 1
	featureExternalData    = 1 << 2
	featureCompression     = 1 << 3 // zstd instead of zlib
	featureExtendedL2      = 1 << 4
	knownFeatures          = featureDirty | featureCorrupt | featureExternalData | featureCompression | featureExtendedL2
	extensionEnd           = 0x00000000
	extensionExternalData  = 0x44415441
	extensionBackingFormat = 0xe2792aca
	extensionCryptoHeader  = 0x0537be77
	maxBackingName         = 1023
	minHeaderV3            = 104
	maxL1Bytes             = 32 << 20 // QEMU's own limit
	maxInternalSnapshots   = 65536    // QEMU's own limit
	maxRefcountTableBytes  = 8 << 20  // QEMU's own limit
	headerReach            = 64 << 10 // the header and its extensions lie in the first cluster; this covers them
	maxExtensions          = 64
	qcow2Magic             = "QFI\xfb"
	minClusterBits         = 9
	maxClusterBits         = 21
	maxExtendedClusterBits = 21
)

// foreign lists the signatures of formats that must not be taken for raw disks: a
// guest could not boot from them, and nothing would tell the operator why.
var foreign = []struct {
	name   string
	offset int64
	magic  string
}{
	{"VMDK", 0, "KDMV"}, {"VMDK", 0, "COWD"}, {"VMDK descriptor", 0, "# Disk DescriptorFile"},
	{"VHDX", 0, "vhdxfile"}, {"VHD", 0, "conectix"}, {"VDI", 0x40, "\x7f\x10\xda\xbe"},
	{"QED", 0, "QED\x00"}, {"LUKS", 0, "LUKS\xba\xbe"}, {"Parallels", 0, "WithoutFreeSpace"},
	{"Parallels", 0, "WithouFreSpacExt"}, {"Bochs", 0, "Bochs Virtual HD Image"},
	{"DMG", 0, "koly"}, {"gzip", 0, "\x1f\x8b"}, {"xz", 0, "\xfd7zXZ\x00"},
	{"zstd", 0, "\x28\xb5\x2f\xfd"}, {"bzip2", 0, "BZh"}, {"zip", 0, "PK\x03\x04"},
	{"tar", 257, "ustar"}, {"HTML", 0, "<!DOCTYPE"}, {"HTML", 0, "<html"},
}

// Probe identifies an image of the given length by its header alone. It reads at
// most 64 KiB. It does not check whether the image is safe (see Info.Check), and
// returns ErrFormat for content that is neither qcow2 nor usable as a raw disk. It
// does not panic on any input.
func Probe(r io.ReaderAt, size int64) (Info, error) {
	if size <= 0 {
		return Info{}, fmt.Errorf("%w: it is empty", ErrFormat)
	}
	head := make([]byte, min(size, headerReach))
	if n, err := r.ReadAt(head, 0); n < len(head) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Info{}, fmt.Errorf("read image header: %w", err)
	}
	if bytes.HasPrefix(head, []byte(qcow2Magic)) {
		return probeQCOW2(head, size)
	}
	for _, f := range foreign {
		if int64(len(head)) > f.offset && bytes.HasPrefix(head[f.offset:], []byte(f.magic)) {
			return Info{}, fmt.Errorf("%w: it is %s, not raw or qcow2", ErrFormat, f.name)
		}
	}
	return Info{Format: Raw, VirtualSize: size, FileSize: size}, nil
}

// header reads big-endian fields of a qcow2 header that is known to be long enough.
type header []byte

func (h header) u32(off int) uint32 { return binary.BigEndian.Uint32(h[off:]) }
func (h header) u64(off int) uint64 { return binary.BigEndian.Uint64(h[off:]) }

func brokenQCOW2(format string, args ...any) error {
	return fmt.Errorf("%w: qcow2: %s", ErrFormat, fmt.Sprintf(format, args...))
}

func probeQCOW2(head []byte, size int64) (Info, error) {
	const v2Header = 72
	if len(head) < v2Header {
		return Info{}, brokenQCOW2("header ends after %d bytes", len(head))
	}
	h := header(head)
	version, clusterBits := h.u32(4), h.u32(20)
	if version != 2 && version != 3 {
		return Info{}, brokenQCOW2("version %d", version)
	}
	if clusterBits < minClusterBits || clusterBits > maxClusterBits {
		return Info{}, brokenQCOW2("cluster size 2^%d", clusterBits)
	}
	virtual := h.u64(24)
	if virtual > 1<<62 {
		return Info{}, brokenQCOW2("virtual size %d", virtual)
	}
	info := Info{Format: QCOW2, VirtualSize: int64(virtual), FileSize: size, ClusterSize: 1 << clusterBits,
		Encrypted: h.u32(32) != 0, Snapshots: int(h.u32(60))}
	headerLength := v2Header
	if version == 3 {
		if len(head) < minHeaderV3 {
			return Info{}, brokenQCOW2("header ends after %d bytes", len(head))
		}
		length := h.u32(100)
		if length < minHeaderV3 || length%8 != 0 || int64(length) > min(int64(len(head)), info.ClusterSize) {
			return Info{}, brokenQCOW2("header length %d", length)
		}
		headerLength = int(length)
		features := h.u64(72)
		info.Dirty = features&featureDirty != 0
		info.Corrupt = features&featureCorrupt != 0
		info.ExternalData = features&featureExternalData != 0
		info.UnknownFeatures = features &^ uint64(knownFeatures)
	}
	if err := checkTables(h, info); err != nil {
		return Info{}, err
	}
	if err := readExtensions(h, headerLength, &info); err != nil {
		return Info{}, err
	}
	if err := readBacking(h, &info); err != nil {
		return Info{}, err
	}
	return info, nil
}

// checkTables refuses tables that QEMU would refuse or that would cost it memory
// out of all proportion to the image.
func checkTables(h header, info Info) error {
	l1Size, l1Offset := int64(h.u32(36)), h.u64(40)
	refOffset, refClusters := h.u64(48), int64(h.u32(56))
	// One entry of the L1 table maps cluster/8 clusters (cluster/16 with extended entries).
	perEntry := info.ClusterSize * (info.ClusterSize / 16)
	need := (info.VirtualSize + perEntry - 1) / perEntry
	switch {
	case l1Size*8 > maxL1Bytes || need > 2*maxL1Bytes/8:
		return brokenQCOW2("L1 table has %d entries", l1Size)
	case info.Snapshots > maxInternalSnapshots:
		return brokenQCOW2("%d internal snapshots", info.Snapshots)
	case refClusters == 0 || refClusters*info.ClusterSize > maxRefcountTableBytes:
		return brokenQCOW2("reference count table has %d clusters", refClusters)
	case refOffset%uint64(info.ClusterSize) != 0 || l1Offset%uint64(info.ClusterSize) != 0:
		return brokenQCOW2("a table lies across clusters")
	case refOffset >= uint64(info.FileSize) || (l1Size > 0 && l1Offset >= uint64(info.FileSize)):
		return brokenQCOW2("a table lies behind the end of the file")
	}
	return nil
}

func readExtensions(h header, off int, info *Info) error {
	for range maxExtensions {
		if off+8 > len(h) || int64(off+8) > info.ClusterSize {
			return nil // a version 2 image may end here without an end mark
		}
		kind, length := h.u32(off), int64(h.u32(off+4))
		next := int64(off) + 8 + (length+7)/8*8
		if kind != extensionEnd && (next > int64(len(h)) || next > info.ClusterSize) {
			return brokenQCOW2("header extension %#x of %d bytes", kind, length)
		}
		switch kind {
		case extensionEnd:
			return nil
		case extensionBackingFormat:
			info.BackingFormat = Format(h[off+8 : int64(off)+8+length])
		case extensionExternalData:
			info.ExternalData = true
		case extensionCryptoHeader:
			info.Encrypted = true
		}
		off = int(next)
	}
	return brokenQCOW2("more than %d header extensions", maxExtensions)
}

func readBacking(h header, info *Info) error {
	off, length := h.u64(8), uint64(h.u32(16))
	if off == 0 {
		return nil
	}
	if length == 0 || length > maxBackingName || off > uint64(len(h)) || off+length > uint64(len(h)) ||
		off+length > uint64(info.ClusterSize) {
		return brokenQCOW2("backing file name of %d bytes at %d", length, off)
	}
	info.BackingFile = string(h[off : off+length])
	return nil
}

// Limits bounds what Inspect accepts.
type Limits struct {
	// MaxVirtualSize is the largest disk in bytes; 0 is no limit.
	MaxVirtualSize int64
}

// Check returns an error if an image from outside must not be given to a guest: the
// image must be self-contained and no larger than the limit.
func (i Info) Check(l Limits) error {
	switch {
	case i.BackingFile != "":
		return fmt.Errorf("%w: it names backing file %q", ErrUnsafe, i.BackingFile)
	case i.ExternalData:
		return fmt.Errorf("%w: its data is in another file", ErrUnsafe)
	case i.Encrypted:
		return fmt.Errorf("%w: it is encrypted", ErrUnsafe)
	case i.UnknownFeatures != 0:
		return fmt.Errorf("%w: it uses unknown features %#x", ErrUnsafe, i.UnknownFeatures)
	case i.Corrupt:
		return fmt.Errorf("%w: it is marked as corrupt", ErrFormat)
	case i.VirtualSize == 0:
		return fmt.Errorf("%w: the disk has no size", ErrFormat)
	case l.MaxVirtualSize > 0 && i.VirtualSize > l.MaxVirtualSize:
		return fmt.Errorf("%w: the disk has %d bytes, the limit is %d", ErrTooLarge, i.VirtualSize, l.MaxVirtualSize)
	}
	return nil
}

// Inspect probes the file at path and checks that it may be given to a guest. It
// follows no symbolic link in the last component and opens regular files only,
// so that it cannot hang on a pipe or read a device.
func Inspect(path string, l Limits) (Info, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return Info{}, fmt.Errorf("inspect disk image: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Info{}, fmt.Errorf("inspect disk image: %w", err)
	}
	if !st.Mode().IsRegular() {
		return Info{}, fmt.Errorf("inspect %s: %w: not a regular file", path, ErrFormat)
	}
	info, err := Probe(f, st.Size())
	if err == nil {
		err = info.Check(l)
	}
	if err != nil {
		return Info{}, fmt.Errorf("inspect %s: %w", path, err)
	}
	return info, nil
}
