package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
)

// names lists a folder, so that tests see what is left behind.
func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return strings.Join(list, " ")
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteFileReplaces(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for i, perm := range []fs.FileMode{0o600, 0o644, 0o600} {
		want := strings.Repeat("x", 3-i)
		if err := WriteFile(path, []byte(want), perm); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil || fi.Mode().Perm() != perm || content(t, path) != want {
			t.Errorf("mode %v, content %q, want %v, %q (%v)", fi.Mode(), content(t, path), perm, want, err)
		}
	}
	if got := names(t, dir); got != "file" {
		t.Errorf("the folder holds %q", got)
	}
}

func TestWhatFailsLeavesTheOldFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("the line went dead")
	r := iotest.TimeoutReader(strings.NewReader("half of the new file"))
	if err := Copy(path, iotest.OneByteReader(r), 0o600); !errors.Is(err, iotest.ErrTimeout) || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	if err := Copy(path, iotest.ErrReader(broken), 0o600); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	// A folder cannot be replaced by a file.
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(sub, nil, 0o600); err == nil {
		t.Error("a file replaced a folder")
	}
	if err := WriteFile(filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its folder: %v", err)
	}
	if got := names(t, dir); got != "file sub" || content(t, path) != "old" {
		t.Errorf("the folder holds %q, the file %q", got, content(t, path))
	}
}

func TestPlaceAndRename(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"a/full", "b/full"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, d), 0o700), os.WriteFile(filepath.Join(dir, d, "x"), []byte(d), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := Copy(filepath.Join(dir, "a", "new"), strings.NewReader("content"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := Place(filepath.Join(dir, "a", "new"), filepath.Join(dir, "b", "placed")); err != nil {
		t.Fatal(err)
	}
	if got := names(t, filepath.Join(dir, "a")); got != "full" || content(t, filepath.Join(dir, "b", "placed")) != "content" {
		t.Errorf("a holds %q", got)
	}
	if err := Rename(filepath.Join(dir, "a", "full"), filepath.Join(dir, "b", "full")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a folder that is there was replaced: %v", err)
	}
	if err := Place(filepath.Join(dir, "none"), filepath.Join(dir, "b", "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there was placed: %v", err)
	}
}
