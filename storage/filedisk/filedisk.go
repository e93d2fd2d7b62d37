// Package filedisk finds out what can be done with a disk that is a file: that
// depends on the file system below it, and only trying tells.
package filedisk

import (
	"os"
	"syscall"
)

// Block sizes that guests accept. Above a page Linux refuses a disk.
const (
	minBlock = 512
	maxBlock = 4096
)

// Properties is what the file system offers for a file.
type Properties struct {
	// DirectIO says that the file can be opened past the host's page cache.
	DirectIO bool
	// BlockSize is what the file system reads and writes at once, at most what
	// guests accept; 0 if it is not known.
	BlockSize uint
}

// Probe tries the file at path. What cannot be told is left at zero: a disk
// works without.
func Probe(path string) Properties {
	var p Properties
	// Not through a link, and without waiting, should it be a pipe.
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
