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

// discard takes a folder that holds the record file out of sight before it takes
// it apart. It makes nothing new, so that it also works where there is no space
// left; and where there is not even room for another name, it takes the folder
// apart in its place.
func (p *Pool) discard(path, record string) error {
	grave := filepath.Join(p.tmpDir(), fmt.Sprintf("%s-%d", p.cfg.Host, rand.Uint64()))
	err := os.Rename(path, grave)
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return takeApart(path, record)
	}
	if err != nil {
		return err
	}
	if err := durable.Sync(filepath.Dir(path)); err != nil {
		return err
	}
	return os.RemoveAll(grave)
}

// takeApart removes a folder where it stands: first its record, without which it
// is no volume any more, and last its lock, without which a second attempt would
// find nothing to delete.
func takeApart(path, record string) error {
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
