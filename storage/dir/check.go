package dir

import (
	"context"
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
	space, err := p.measure()
	switch {
	case isMissing(err):
		return nil
	case err == nil && space.Free == 0:
		err = fmt.Errorf("%w: the file system of %s is full", storage.ErrNoSpace, cfg.Dir)
	}
	if err != nil {
		return fmt.Errorf("pool %s: %w", cfg.Name, err)
	}
	return nil
}

// Probe implements storage.ProbedPool.
func (p *Pool) Probe(ctx context.Context) (storage.Space, error) {
	end, err := p.beginOperation(ctx)
	if err != nil {
		return storage.Space{}, err
	}
	defer end()
	space, err := p.measure()
	if err == nil {
		var found string
		if found, err = readMarker(p.markerFile()); err == nil && found != p.id {
			err = p.unavailable(found, p.id)
		}
	}
	if err != nil {
		return storage.Space{}, fmt.Errorf("pool %s: %w", p.cfg.Name, err)
	}
	return space, nil
}

// measure returns the room in the file system, or ErrUnavailable if it is read-only.
func (p *Pool) measure() (storage.Space, error) {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(p.cfg.Dir, &fs); err != nil {
		return storage.Space{}, &os.PathError{Op: "statfs", Path: p.cfg.Dir, Err: err}
	}
	const readOnly = 1 // ST_RDONLY
	if fs.Flags&readOnly != 0 {
		return storage.Space{}, fmt.Errorf("%w: the file system of %s is read-only", storage.ErrUnavailable, p.cfg.Dir)
	}
	var dir syscall.Stat_t
	if err := syscall.Stat(p.cfg.Dir, &dir); err != nil {
		return storage.Space{}, &os.PathError{Op: "stat", Path: p.cfg.Dir, Err: err}
	}
	return storage.Space{Capacity: int64(fs.Blocks) * fs.Bsize, Free: int64(fs.Bavail) * fs.Bsize, Device: dir.Dev}, nil
}
