// Package durable puts files and folders in their place so that they are there after a
// loss of power: whole, under their name, and as they were when the call returned.
//
// A file that is replaced in one step is not durable yet. Its content has to be on the
// disk before it gets its name, and the folder that holds the name after. Libraries that
// replace files in one step leave the folder out; this package does both, so that nobody
// has to remember. It owns no files and keeps no state.
package durable

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// WriteFile replaces the file at path, or makes it, with the mode perm whatever the
// umask. After a crash at any moment the file is the old one or the new one; when
// WriteFile returns without an error it is the new one. Of two calls at once for one
// path, one wins. The folder must be there.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Copy(path, bytes.NewReader(data), perm)
}

// Copy is WriteFile for content that is read from r to its end.
func Copy(path string, r io.Reader, perm fs.FileMode) error {
	// renameio.WriteFile would leave the mode of the file that it replaces.
	dir := filepath.Dir(path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(perm))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), f.Cleanup())
	}
	return Sync(dir)
}

// Place gives a file that is written its name, in a folder of the same file system: it
// makes the content durable, and then renames as Rename does.
func Place(from, to string) error {
	if err := Sync(from); err != nil {
		return err
	}
	return Rename(from, to)
}

// Rename moves a file or folder within a file system. When it returns without an error
// the new name is there after a crash and the old one is not. What a folder holds has to
// be durable before. errors.Is tells fs.ErrExist when to is a folder that is not empty.
func Rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err // it names both
	}
	if err := Sync(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) == filepath.Dir(to) {
		return nil
	}
	return Sync(filepath.Dir(from))
}

// Sync makes a file's content durable, or the names in a folder: which there are, and
// which are gone.
func Sync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
