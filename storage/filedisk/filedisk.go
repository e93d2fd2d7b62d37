// Package filedisk finds out which properties a file has as a disk. They depend on
// the file system below it, and can only be found by trying.
package filedisk

import (
	"os"
	"syscall"
)

// Block sizes that guests accept. Linux refuses a disk whose blocks are larger than a
// page.
const (
	minBlock = 512
	maxBlock = 4096
)

// Properties is what the file system offers for a file.
type Properties struct {
	// DirectIO says that the file can be opened with O_DIRECT, which bypasses the
	// host's page cache.
	DirectIO bool
	// BlockSize is the block size of the file system in bytes, at most the largest
	// that guests accept; 0 if it is not known.
	BlockSize uint
}

// Probe examines the file at path. A property that it cannot find out stays zero: a
// disk works without it.
func Probe(path string) Properties {
	var p Properties
	// It follows no symbolic link, and does not block if path is a pipe.
	const flags = os.O_RDONLY | syscall.O_NOFOLLOW | syscall.O_NONBLOCK | syscall.O_CLOEXEC
	if f, err := os.OpenFile(path, flags|syscall.O_DIRECT, 0); err == nil {
		p.DirectIO = true
		f.Close()
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err == nil && st.Bsize >= minBlock && st.Bsize&(st.Bsize-1) == 0 {
		p.BlockSize = min(uint(st.Bsize), maxBlock)
	}
	return p
}
