// Package durable writes and moves files and folders so that they survive a loss of
// power: whole, under their name, and as they were when the call returned.
//
// Replacing a file in one step is not enough. The content must be on the disk before
// the file gets its name, and the folder that has the name must be synced after that.
// Libraries that replace files in one step do not sync the folder; this package does
// both. It owns no files and keeps no state.
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
// WriteFile has returned without an error, it is the new one. Of two concurrent calls
// for one path, one wins. The folder must exist.
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

// Place moves a finished file to its name, in a folder of the same file system: it
// syncs the content and then renames the file as Rename does.
func Place(from, to string) error {
	if err := Sync(from); err != nil {
		return err
	}
	return Rename(from, to)
}

// Rename moves a file or folder within a file system. After it has returned without an
// error, a crash cannot undo the move. The content must be synced before. The error
// wraps fs.ErrExist if to is a folder that is not empty.
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

// Sync writes a file's content to the disk. For a folder it writes the list of names:
// those that were added and those that were removed.
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
