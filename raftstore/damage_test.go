package raftstore_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// walFiles returns the log files of a data directory, oldest first.
func walFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("log files in %s: %v, %v", dir, files, err)
	}
	return files
}

// overwrite changes bytes of a file from where marker is.
func overwrite(t *testing.T, path, marker string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(b), marker)
	if i < 0 {
		t.Fatalf("%s is not in %s", marker, path)
	}
	b[i] ^= 0xff
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptLogIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		for i := range 50 {
			mustCommit(t, s, put(fmt.Sprint("/k/", i), fmt.Sprintf("value-%03d", i)))
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		overwrite(t, walFiles(t, dir)[0], "value-020")
		_, err := openSingle(t, dir)
		if !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a damaged entry: %v", err)
		}
		// It let go of the directory, so it can be emptied and used again.
		if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
			t.Fatal(err)
		}
		mustOpenSingle(t, dir)
	})
}

// TestTornTailIsDropped: a write that a power loss cut short is dropped, and every
// write that was acknowledged before is there.
func TestTornTailIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		var keep raftstore.TxnResult
		for i := range 20 {
			keep = mustCommit(t, s, put(fmt.Sprint("/k/", i), "v"))
		}
		mustCommit(t, s, put("/torn", "the-last-write"))
		// What the disk would hold if the host had lost power during the last write.
		crashed := t.TempDir()
		if err := os.CopyFS(crashed, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		tearLastWrite(t, crashed)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// After an orderly end the same is damage: the write was acknowledged.
		tearLastWrite(t, dir)
		if _, err := openSingle(t, dir); !errors.Is(err, raftstore.ErrCorruptLog) || !strings.Contains(err.Error(), "was committed up to") {
			t.Errorf("opened without a write that was acknowledged: %v", err)
		}
		s = mustOpenSingle(t, crashed)
		l, err := s.List(t.Context(), raftstore.ListRequest{Prefix: "/k/"})
		if err != nil || len(l.Records) != 20 || l.Revision != keep.Revision {
			t.Errorf("after a torn write: %d records at %d, want 20 at %d, %v", len(l.Records), l.Revision, keep.Revision, err)
		}
		mustCommit(t, s, put("/k/more", "v"))
	})
}

// tearLastWrite damages the log from within the value "the-last-write" on.
func tearLastWrite(t *testing.T, dir string) {
	t.Helper()
	path := walFiles(t, dir)[0]
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	i := strings.Index(string(b), "the-last-write")
	clear(b[i+4:])
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCorruptSnapshotIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "snapshotted-value"))
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "state.bin"))
		if err != nil || len(files) != 1 {
			t.Fatalf("snapshots: %v, %v", files, err)
		}
		overwrite(t, files[0], "snapshotted-value")
		if _, err := openSingle(t, dir); !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a damaged snapshot: %v", err)
		}
	})
}

func TestCorruptMetaIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "v"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		metas, err := filepath.Glob(filepath.Join(dir, "wal", "*.db"))
		if err != nil || len(metas) != 1 {
			t.Fatalf("meta files: %v, %v", metas, err)
		}
		if err := os.WriteFile(metas[0], []byte(strings.Repeat("garbage ", 4096)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openSingle(t, dir); !errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a damaged meta file: %v", err)
		}
	})
}

// TestDiskTroubleIsNoDamage opens a good copy while the system refuses to open or read it.
// The error must not say that the copy is damaged, because the remedy for damage is to
// delete it; and the copy is usable once the trouble is over.
func TestDiskTroubleIsNoDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "v"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, act := range []string{"Open", "FirstIndex", "GetLog", "Get"} {
			for _, errno := range []syscall.Errno{
				syscall.EROFS, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EBUSY, syscall.EACCES, syscall.ESTALE, syscall.ENOSPC, syscall.EDQUOT,
			} {
				_, err := openSingle(t, dir, raftstoretest.WithConfig(func(c *raftstore.Config) {
					raftstore.WrapReads(c, func(which string) error {
						if which != act {
							return nil
						}
						return &os.PathError{Op: "read", Path: "wal", Err: errno}
					})
				}))
				if !errors.Is(err, errno) || errors.Is(err, raftstore.ErrCorruptLog) {
					t.Errorf("%s fails with %v: %v", act, errno, err)
				}
				if full := errno == syscall.ENOSPC || errno == syscall.EDQUOT; errors.Is(err, raftstore.ErrDiskFull) != full {
					t.Errorf("%s fails with %v, reported as a full disk: %v", act, errno, !full)
				}
			}
		}
		mustOpenSingle(t, dir)
	})
}

// TestUnreadableSnapshotIsNoDamage: a snapshot whose description cannot be read for a
// while is not taken for one that never was, which would look like a gap in the log.
func TestUnreadableSnapshotIsNoDamage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := mustOpenSingle(t, dir)
		mustCommit(t, s, put("/k", "v"))
		if err := s.Snapshot(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		metas, err := filepath.Glob(filepath.Join(dir, "snapshots", "*", "meta.json"))
		if err != nil || len(metas) != 1 {
			t.Fatalf("descriptions: %v, %v", metas, err)
		}
		away := metas[0] + ".away"
		if err := os.Rename(metas[0], away); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("meta.json", metas[0]); err != nil { // reading it fails with ELOOP
			t.Fatal(err)
		}
		if _, err := openSingle(t, dir); !errors.Is(err, syscall.ELOOP) || errors.Is(err, raftstore.ErrCorruptLog) {
			t.Errorf("open with a description that cannot be read: %v", err)
		}
		if err := os.Rename(away, metas[0]); err != nil {
			t.Fatal(err)
		}
		mustOpenSingle(t, dir)
	})
}
