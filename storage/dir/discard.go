package dir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"

	"virtmesh/storage/durable"
)

// discardFolder removes a volume's or snapshot's folder: it renames the folder into
// tmp/ and then removes its parts. It creates no file, so that it works on a full
// disk; if there is not even space for the new name, it removes the parts in place.
// record is the name of the folder's record file.
func (p *Pool) discardFolder(path, record string) error {
	grave := filepath.Join(p.tmpDir(), fmt.Sprintf("%s-%d", p.cfg.Host, rand.Uint64()))
	err := os.Rename(path, grave)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return removeInPlace(path, record)
	}
	if err != nil {
		return err
	}
	if err := durable.Sync(filepath.Dir(path)); err != nil {
		return err
	}
	return os.RemoveAll(grave)
}

// removeInPlace removes a folder without renaming it: first its record, because a
// folder without a record is no longer a volume, and last its lock, because a second
// attempt finds the folder by its lock.
func removeInPlace(path, record string) error {
	if err := os.Remove(filepath.Join(path, record)); err != nil && !isMissing(err) {
		return err
	}
	parts, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, part := range parts {
		if part.Name() == "lock" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, part.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(path)
}
