package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"virtmesh/raftstore"
)

// localRead is for objects that a controller has already seen.
var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// imageList is the file that says which images of the cache an instance uses,
// one path a line, so that the next agent holds them.
const imageList = "images"

func (v *Volumes) recordImage(uid, path string) error {
	file := filepath.Join(v.instanceDir(uid), imageList)
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the instance's images: %w", err)
	}
	if strings.Contains(string(data), path+"\n") {
		return nil
	}
	if err := os.WriteFile(file, append(data, path+"\n"...), 0o600); err != nil {
		return fmt.Errorf("record the instance's images: %w", err)
	}
	return nil
}

// holdUsedImages keeps the images of existing instances from being evicted.
func (v *Volumes) holdUsedImages() error {
	entries, err := os.ReadDir(v.Dir)
	if err != nil {
		return fmt.Errorf("list the directories of instances: %w", err)
	}
	for _, entry := range entries {
		uid := entry.Name()
		data, err := os.ReadFile(filepath.Join(v.instanceDir(uid), imageList))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the images of instance %s: %w", uid, err)
		}
		for path := range strings.Lines(string(data)) {
			release, err := v.Images.Hold(strings.TrimSpace(path))
			if err != nil {
				v.Logger.Warn("an image that an instance uses is gone", "instance", uid, "err", err)
				continue
			}
			v.held[uid] = append(v.held[uid], release)
		}
	}
	return nil
}
