package raftstore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft-wal/fs"
)

// A failed sync must reach raft, whichever of the two kinds it is: it must not count an
// entry as stored.
func TestFailedSyncIsReported(t *testing.T) {
	dir := t.TempDir()
	v := walFS{FS: fs.New()}
	f, err := v.Create(dir, "a", 4096)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the whole file, then its data
		if _, err := f.WriteAt([]byte("entry"), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err == nil {
		t.Error("the data of a closed file was synced")
	}
	if f, err = v.OpenWriter(dir, "a"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err == nil {
		t.Error("a closed file was synced as a whole")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a")); err != nil || string(b[:5]) != "entry" {
		t.Errorf("file holds %q, %v", b[:5], err)
	}
	if _, err := v.OpenWriter(dir, "missing"); err == nil {
		t.Error("a missing file was opened")
	}
}
