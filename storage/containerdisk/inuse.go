package containerdisk

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// openedByQEMU reports whether some process holds a lock on an image: QEMU locks
// bytes of every image that it has opened. This is a second check besides Hold, for
// virtual machines that outlived the agent that started them.
func (c *Cache) openedByQEMU(key string) bool {
	f, err := os.Open(c.diskPath(key))
	if err != nil {
		return false
	}
	defer f.Close()
	// A query for a write lock on all bytes finds read locks too, and takes no lock.
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &l); err != nil {
		return true // unknown, so the image must not be removed
	}
	return l.Type != unix.F_UNLCK
}
