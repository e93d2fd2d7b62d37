package raftstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// smallDisk mounts a file system of so many MiB until the test ends.
func smallDisk(t *testing.T, mib int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill writes into the file system of dir whatever room it finds, as guests do, until stop
// is called. It returns when the file system is full.
func fill(t *testing.T, dir string) (stop func()) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "guest"))
	if err != nil {
		t.Fatal(err)
	}
	full, end := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		block := make([]byte, 64<<10)
		tell := sync.OnceFunc(func() { close(full) })
		for {
			if _, err := f.Write(block); err != nil {
				tell()
				time.Sleep(time.Millisecond) // a guest that tries again
			}
			select {
			case <-end:
				return
			default:
			}
		}
	})
	<-full
	return sync.OnceFunc(func() {
		close(end)
		wg.Wait()
		if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
			t.Error(err)
		}
	})
}

// ballastIn returns how many files of ballast there are.
func ballastIn(t *testing.T, dir string) int {
	t.Helper()
	files, err := os.ReadDir(filepath.Join(dir, "raft", "ballast"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return len(files)
}

// A store takes writes while a guest takes all room of the disk that it finds, and goes on
// to further files of the log, each of which costs one file of ballast, however fast the guest
// is. (It used to take the room for the end of a file, once in a while all that was set aside.)
func TestAFullDiskLeavesRoomForTheLog(t *testing.T) {
	const files, segment = 10, 64 << 10
	const most = 3 * segment
	dir := smallDisk(t, 64)
	options := raftstoretest.WithConfig(func(c *raftstore.Config) {
		c.Limits.SegmentBytes, c.Limits.BallastFiles = segment, files
	})
	s := mustOpenSingle(t, filepath.Join(dir, "raft"), options)
	raftstoretest.Eventually(t, func() error {
		if n := ballastIn(t, dir); n != files {
			return fmt.Errorf("%d files of ballast", n)
		}
		return nil
	})
	stop := fill(t, dir)
	defer stop()
	value := strings.Repeat("v", 4<<10)
	ctx, cancel := context.WithTimeout(t.Context(), raftstoretest.ReadyTimeout)
	defer cancel()
	for i := range most / len(value) {
		if _, err := s.Commit(ctx, put(fmt.Sprint("/k/", i), value)); err != nil {
			t.Fatalf("write %d on a full disk: %v", i, err)
		}
	}
	if left := ballastIn(t, dir); left == files || left < files-4 {
		t.Errorf("%d files of ballast are left of %d", left, files)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// It starts on a full disk as well, and has what was written.
	s = mustOpenSingle(t, filepath.Join(dir, "raft"), options)
	l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
	if want := most / len(value); err != nil || len(l.Records) != want {
		t.Errorf("%d records, want %d: %v", len(l.Records), want, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The ballast is there again when there is room.
	stop()
	mustOpenSingle(t, filepath.Join(dir, "raft"), options)
	raftstoretest.Eventually(t, func() error {
		if n := ballastIn(t, dir); n != files {
			return fmt.Errorf("%d files of ballast", n)
		}
		return nil
	})
}

// Ballast takes no room from a disk that has little.
func TestASmallDiskGetsNoBallast(t *testing.T) {
	dir := smallDisk(t, 8)
	s := mustOpenSingle(t, filepath.Join(dir, "raft"), raftstoretest.WithConfig(func(c *raftstore.Config) {
		c.Limits.SegmentBytes, c.Limits.BallastFiles = 64<<10, 4
	}))
	mustCommit(t, s, put("/k", "v"))
	if n := ballastIn(t, dir); n != 0 || s.GiveRoom() {
		t.Errorf("%d files of ballast on a disk of 8 MiB", n)
	}
}
