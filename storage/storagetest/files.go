package storagetest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"virtmesh/storage"
)

// Files is Access to volumes that are files. It needs qemu-img for
// qcow2 volumes.
type Files struct{}

var _ Access = Files{}

// WriteAt implements Access.
func (Files) WriteAt(t *testing.T, v storage.Volume, b []byte, off int64) {
	t.Helper()
	if v.Format == storage.Raw {
		writeFileAt(t, v.Path, b, off)
		return
	}
	// The content is written into a raw copy, because qemu-io writes only patterns.
	raw := filepath.Join(t.TempDir(), "raw")
	command(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", v.Path, raw)
	writeFileAt(t, raw, b, off)
	command(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", raw, v.Path)
}

// ReadAt implements Access.
func (Files) ReadAt(t *testing.T, v storage.Volume, n int, off int64) []byte {
	t.Helper()
	path := v.Path
	if v.Format == storage.QCOW2 {
		path = filepath.Join(t.TempDir(), "raw")
		command(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", v.Path, path)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatalf("read %d bytes at %d of %s: %v", n, off, v.Name, err)
	}
	return b
}

func writeFileAt(t *testing.T, path string, b []byte, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, bytes.TrimSpace(out))
	}
}
