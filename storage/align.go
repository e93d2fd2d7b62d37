package storage

// SizeAlignment is what the size of every virtual disk is a multiple of, in bytes.
// QEMU writes to a disk only if its size is a multiple of the block size of the file
// system below, and no file system that it can use has larger blocks than this.
const SizeAlignment = 4096

// AlignSize rounds a size in bytes up to a multiple of SizeAlignment. Whatever makes
// or grows a disk calls it, so that a size that a user wrote ("1G", "100M", "1")
// gives a disk that a virtual machine can start with.
func AlignSize(size int64) int64 {
	return (size + SizeAlignment - 1) / SizeAlignment * SizeAlignment
}
