package filedisk

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestProbeAgreesWithOpening(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0)
	if err == nil {
		f.Close()
	}
	got := Probe(path)
	if got.DirectIO != (err == nil) {
		t.Errorf("probed %+v, opening says %v", got, err)
	}
	if got.BlockSize < minBlock || got.BlockSize > maxBlock || got.BlockSize&(got.BlockSize-1) != 0 {
		t.Errorf("block size %d", got.BlockSize)
	}
}

// ramfs has no direct I/O on any kernel.
func TestProbeOfAFileSystemWithoutDirectIO(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Probe(path); got.DirectIO || got.BlockSize == 0 {
		t.Errorf("probed %+v", got)
	}
}

func TestProbeOfNothing(t *testing.T) {
	if got := Probe(filepath.Join(t.TempDir(), "missing")); got != (Properties{}) {
		t.Errorf("probed %+v", got)
	}
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	Probe(pipe) // and does not wait for a writer
}
