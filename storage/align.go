package storage

import "math"

// SizeAlignment is a number of bytes; the size of every virtual disk is a multiple
// of it. QEMU writes to a disk only if its size is a multiple of the block size of the
// file system below, and no file system that it can use has larger blocks than this.
const SizeAlignment = 4096

// AlignSize rounds a size in bytes up to a multiple of SizeAlignment. All code that
// creates or grows a disk calls it, so that a virtual machine can start with a disk of
// any size that a user writes ("1G", "100M", "1").
// The largest multiple that an int64 holds is the most that it returns.
func AlignSize(size int64) int64 {
	const most = math.MaxInt64 - SizeAlignment + 1
	if size > most {
		return most
	}
	return (size + SizeAlignment - 1) / SizeAlignment * SizeAlignment
}
