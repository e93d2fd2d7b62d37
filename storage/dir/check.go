package dir

import (
	"fmt"
	"os"
	"syscall"

	"virtmesh/storage"
)

// Check returns why Open would fail, nil if nothing is in the way. It changes nothing,
// and may be called while the pool is open. A directory that does not exist is not in
// the way unless a pool is expected there: Open makes it.
func Check(cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	p := &Pool{cfg: cfg}
	var known string
	var err error
	if cfg.Memory != "" {
		if known, err = readMarker(cfg.Memory); err != nil {
			return fmt.Errorf("pool %s: %w", cfg.Name, err)
		}
	}
	found, err := readMarker(p.markerFile())
	if err != nil {
		return fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	if known != "" && found != known {
		return fmt.Errorf("pool %s: %w", cfg.Name, p.unavailable(found, known))
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(cfg.Dir, &fs); err != nil {
		if isMissing(err) {
			return nil
		}
		return fmt.Errorf("pool %s: %w", cfg.Name, &os.PathError{Op: "statfs", Path: cfg.Dir, Err: err})
	}
	const readOnly = 1 // ST_RDONLY
	if fs.Flags&readOnly != 0 {
		return fmt.Errorf("pool %s: %w: the file system of %s is read-only", cfg.Name, storage.ErrUnavailable, cfg.Dir)
	}
	if fs.Bavail == 0 {
		return fmt.Errorf("pool %s: %w: the file system of %s is full", cfg.Name, storage.ErrNoSpace, cfg.Dir)
	}
	return nil
}
