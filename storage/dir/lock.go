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

// lockPoll is how often a lock that is taken is tried again. Such locks last for
// a copy, so the wait is coarse.
const lockPoll = 20 * time.Millisecond

// lock waits for an operation's turn on a volume: alone, or with others that only
// read it. It returns ErrNotFound if there is no such volume, also if it goes
// while it is waited for, and ErrBusy when ctx ends first.
func (p *Pool) lock(ctx context.Context, name string, alone bool) (unlock func(), err error) {
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
		// Of the open file, not of the process: so it also holds between goroutines.
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

// sameFile says whether f is still what stands at path.
func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}
