package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"virtmesh/storage"
)

// lockPoll is the interval between attempts to take a lock. A holder keeps its lock
// for the time of a copy, so the interval can be coarse.
const lockPoll = 20 * time.Millisecond

// lockVolume waits for a lock on a volume: an exclusive lock if alone is set, else a
// lock shared with other readers. It returns ErrNotFound if the volume does not exist
// or is deleted during the wait, and ErrBusy when ctx ends first.
func (p *Pool) lockVolume(ctx context.Context, name string, alone bool) (unlock func(), err error) {
	path := filepath.Join(p.volumeDir(name), "lock")
	kind := int16(unix.F_RDLCK)
	if alone {
		kind = unix.F_WRLCK
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0)
		if isMissing(err) {
			return nil, fmt.Errorf("volume %s: %w", name, storage.ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		// The lock belongs to the open file, not to the process, so it works between
		// goroutines too.
		err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind})
		if err == nil && sameFile(f, path) {
			return func() { f.Close() }, nil
		}
		f.Close()
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, fmt.Errorf("lock volume %s: %w", name, err)
		}
		if err == nil {
			continue // the volume was deleted, and perhaps made anew, meanwhile
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("volume %s: %w: %w", name, storage.ErrBusy, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// sameFile reports whether f is still the file at path.
func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}
