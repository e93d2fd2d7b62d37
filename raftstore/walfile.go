package raftstore

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"
)

// walFS is the file system of raft-wal with a cheaper Sync. raft-wal calls fsync for each
// entry, which also writes the file's times, and so a second block. fdatasync writes the
// data and what is needed to read it back, the size of the file included, which is all
// that a log needs: see fdatasync(2). A write passes two of them, one at the leader and
// then one at a follower.
//
// When the disk is full, a file is made of the ballast.
type walFS struct {
	*fs.FS
	ballast *ballast
}

var _ types.VFS = walFS{}

// Create implements types.VFS.
func (v walFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := v.FS.Create(dir, name, size)
	if err != nil && !errors.Is(err, os.ErrExist) {
		_ = os.Remove(filepath.Join(dir, name)) // there was no room for it; it may not even exist
	}
	if isFull(err) {
		if made, failed := v.ballast.become(filepath.Join(dir, name), int64(size)); failed != nil {
			return nil, failed
		} else if made {
			return v.OpenWriter(dir, name)
		}
	}
	if err == nil {
		v.ballast.setEndAside(filepath.Join(dir, name), int64(size))
	}
	return newWALFile(f, err)
}

// OpenWriter implements types.VFS.
func (v walFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	return newWALFile(v.FS.OpenWriter(dir, name))
}

// syncedFile is what both kinds of files of fs.FS are.
type syncedFile interface {
	types.WritableFile
	SyscallConn() (syscall.RawConn, error)
}

var (
	_ syncedFile = (*fs.File)(nil)
	_ syncedFile = (*os.File)(nil)
)

// walFile is a file of a log.
type walFile struct {
	syncedFile
	synced atomic.Bool // the file was synced as a whole
}

func newWALFile(f types.WritableFile, err error) (types.WritableFile, error) {
	file, ok := f.(syncedFile)
	if err != nil || !ok {
		return f, err
	}
	return &walFile{syncedFile: file}, nil
}

// Sync implements types.WritableFile. The first call syncs all of the file, and the
// directory if the file is new.
func (f *walFile) Sync() error {
	if !f.synced.Load() {
		err := f.syncedFile.Sync()
		f.synced.Store(err == nil)
		return err
	}
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) {
		for {
			if failed = unix.Fdatasync(int(fd)); failed != unix.EINTR {
				return
			}
		}
	})
	if err != nil {
		return err
	}
	return os.NewSyscallError("fdatasync", failed)
}
