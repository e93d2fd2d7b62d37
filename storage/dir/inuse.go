package dir

import (
	"os"

	"golang.org/x/sys/unix"
)

// openedByQEMU reports whether some process has locked bytes of a disk, as QEMU does
// with every image that it opens. If that cannot be found out, it returns false.
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
