// Package dir keeps volumes as files in a folder: on the host's own file system,
// or on one that several hosts mount.
//
//	volumes/<name>/disk.img         the disk of a raw volume, a sparse file
//	volumes/<name>/disk.qcow2       or of a qcow2 volume
//	volumes/<name>/volume.json      format and time of creation, never changed
//	volumes/<name>/lock             locked by operations on the volume
//	volumes/<name>/snapshots/<s>/   disk.* and snapshot.json of a snapshot
//	tmp/<host>-*                    what that host is making or removing
//	pool.json                       the pool's ID
//
// By pool.json the driver distinguishes the pool from the bare directory that
// remains when its file system is not mounted. In the bare directory it creates
// nothing, and no volume counts as deleted.
//
// Invariants: a folder below volumes/ or snapshots/ is whole. It is renamed there
// from tmp/ once everything in it is on disk, and renamed back to tmp/ before its
// parts are removed (if a full disk prevents the rename, its record is removed
// first). So a crash at any point leaves at worst a folder in tmp/, which the next
// Open on that host removes. When two hosts create the same name at once, the first
// rename wins, and the other host gets ErrExists. Locks are POSIX record locks:
// NFS passes them between hosts, and the kernel drops them when a process dies.
//
// Sizes are read from the disk, not from volume.json, so that they are right after
// a hypervisor has grown the disk or a crash has interrupted Expand. The format is
// read from volume.json: a guest may write any header into its raw disk.
//
// The driver does not mount file systems, does not check quotas, and does not move
// files between folders.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"virtmesh/storage"
	"virtmesh/storage/qemuimg"
	"virtmesh/storage/sparse"
)

// Config describes a pool.
type Config struct {
	// Name is the pool's name.
	Name string
	// Dir is the folder. Open creates it if it does not exist.
	Dir string
	// Host is this host's name. It marks unfinished work in tmp/, so that each host
	// removes only its own.
	Host string
	// Shared says that other hosts open the same folder.
	Shared bool
	// DefaultFormat is the format of volumes that ask for none.
	DefaultFormat storage.Format
	// Memory is a file outside of Dir in which this host records the ID of the pool
	// that it found there, so that no new pool is made while Dir is not mounted.
	// Empty for none.
	Memory string
	// Reserve is how many bytes new volumes and copies leave free in the file system; of a
	// small one, a tenth is enough. Guests may use them.
	Reserve int64
	// Tool makes and converts qcow2 images.
	Tool qemuimg.Tool
	Log  *slog.Logger
}

// DefaultConfig returns the settings of a host-local pool of raw volumes in dir.
func DefaultConfig(name, dir string) Config {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return Config{Name: name, Dir: dir, Host: host, DefaultFormat: storage.Raw,
		Tool: qemuimg.DefaultTool(), Log: slog.New(slog.DiscardHandler)}
}

// Validate returns an error that names an invalid field of c.
func (c Config) Validate() error {
	if err := storage.ValidateName(c.Name); err != nil {
		return fmt.Errorf("dir pool: Name: %w", err)
	}
	if err := storage.ValidateName(c.Host); err != nil {
		return fmt.Errorf("dir pool %s: Host: %w", c.Name, err)
	}
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("dir pool %s: Dir %q is not an absolute path", c.Name, c.Dir)
	case c.Memory != "" && !filepath.IsAbs(c.Memory):
		return fmt.Errorf("dir pool %s: Memory %q is not an absolute path", c.Name, c.Memory)
	case c.DefaultFormat != storage.Raw && c.DefaultFormat != storage.QCOW2:
		return fmt.Errorf("dir pool %s: DefaultFormat %q is neither raw nor qcow2", c.Name, c.DefaultFormat)
	case c.Reserve < 0:
		return fmt.Errorf("dir pool %s: Reserve %d is negative", c.Name, c.Reserve)
	case c.Log == nil:
		return fmt.Errorf("dir pool %s: Log is not set", c.Name)
	}
	return nil
}

// Pool is a folder of volumes.
type Pool struct {
	cfg  Config
	info storage.Info
	id   string // the ID in pool.json

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // operations under way
}

var (
	_ storage.ProbedPool  = (*Pool)(nil)
	_ storage.Snapshotter = (*Pool)(nil)
)

// Open opens the pool in cfg.Dir and removes this host's unfinished work in it.
// ErrUnavailable says that the pool that this host knows is not there.
func Open(cfg Config) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &Pool{cfg: cfg}
	if err := p.identifyPool(); err != nil {
		return nil, fmt.Errorf("open pool %s: %w", cfg.Name, err)
	}
	for _, d := range []string{p.volumesDir(), p.tmpDir()} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return nil, fmt.Errorf("open pool %s: %w", cfg.Name, err)
		}
	}
	stale, err := filepath.Glob(filepath.Join(p.tmpDir(), cfg.Host+"-*"))
	if err != nil {
		return nil, fmt.Errorf("open pool %s: %w", cfg.Name, err)
	}
	for _, s := range stale {
		// A host called "a" must not remove the work of host "a-b".
		if strings.Count(filepath.Base(s), "-") != strings.Count(cfg.Host, "-")+1 {
			continue
		}
		cfg.Log.Info("removing an unfinished volume", "pool", cfg.Name, "path", s)
		if err := os.RemoveAll(s); err != nil { // it is only in the way; the next Open tries again
			cfg.Log.Warn("an unfinished volume stays", "pool", cfg.Name, "path", s, "err", err)
		}
	}
	if err := p.closeDisks(); err != nil {
		return nil, fmt.Errorf("open pool %s: %w", cfg.Name, err)
	}
	clone, err := p.canClone()
	if err != nil {
		return nil, fmt.Errorf("open pool %s: %w", cfg.Name, err)
	}
	formats := []storage.Format{storage.Raw, storage.QCOW2}
	if cfg.DefaultFormat == storage.QCOW2 {
		formats = []storage.Format{storage.QCOW2, storage.Raw}
	}
	p.info = storage.Info{Name: cfg.Name, Driver: "dir", Capabilities: storage.Capabilities{
		Shared: cfg.Shared, Expand: true, Snapshots: true, FastClone: clone, Thin: true, Formats: formats}}
	return p, nil
}

// closeDisks takes the rights of the group from disks that an earlier version made.
func (p *Pool) closeDisks() error {
	for _, pattern := range []string{"*", filepath.Join("*", "snapshots", "*")} {
		disks, err := filepath.Glob(filepath.Join(p.volumesDir(), pattern, "disk.*"))
		if err != nil {
			return err
		}
		for _, disk := range disks {
			if err := closeDisk(disk); err != nil && !isMissing(err) {
				// It is no reason not to use the pool: the disk's guest alone is less apart.
				p.cfg.Log.Warn("a disk stays open to QEMU's group", "pool", p.cfg.Name, "path", disk, "err", err)
			}
		}
	}
	return nil
}

func closeDisk(path string) error {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&^diskMode == 0 {
		return err
	}
	return os.Chmod(path, diskMode)
}

// canClone tests whether the file system can share content between files. A full one
// counts as one that cannot: the pool must open, so that its volumes can be deleted.
func (p *Pool) canClone() (bool, error) {
	clone, err := p.tryClone()
	if errors.Is(classify(err), storage.ErrNoSpace) {
		return false, nil
	}
	return clone, err
}

func (p *Pool) tryClone() (bool, error) {
	dir, err := p.workDir()
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	a, err := os.Create(filepath.Join(dir, "a"))
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := os.Create(filepath.Join(dir, "b"))
	if err != nil {
		return false, err
	}
	defer b.Close()
	return sparse.Clone(b, a), nil
}

// Info implements storage.Pool.
func (p *Pool) Info() storage.Info { return p.info }

// Close implements storage.Pool.
func (p *Pool) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// beginOperation registers a running operation, for which Close waits. The caller
// defers end.
func (p *Pool) beginOperation(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, storage.ErrClosed
	}
	p.wg.Add(1)
	return p.wg.Done, nil
}

func (p *Pool) volumesDir() string             { return filepath.Join(p.cfg.Dir, "volumes") }
func (p *Pool) tmpDir() string                 { return filepath.Join(p.cfg.Dir, "tmp") }
func (p *Pool) volumeDir(name string) string   { return filepath.Join(p.volumesDir(), name) }
func (p *Pool) snapshotsDir(vol string) string { return filepath.Join(p.volumeDir(vol), "snapshots") }
func (p *Pool) snapshotDir(v, s string) string { return filepath.Join(p.snapshotsDir(v), s) }

// workDir makes an empty folder of this host in tmp/.
func (p *Pool) workDir() (string, error) { return os.MkdirTemp(p.tmpDir(), p.cfg.Host+"-") }

func diskName(f storage.Format) string {
	if f == storage.QCOW2 {
		return "disk.qcow2"
	}
	return "disk.img"
}

// Usage implements storage.Pool.
func (p *Pool) Usage(ctx context.Context) (storage.Usage, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(p.cfg.Dir, &st); err != nil {
		return storage.Usage{}, fmt.Errorf("usage of pool %s: %w", p.cfg.Name, err)
	}
	u := storage.Usage{Capacity: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize}
	vols, err := p.List(ctx)
	if err != nil {
		return storage.Usage{}, err
	}
	u.Volumes = len(vols)
	for _, v := range vols {
		u.Provisioned += v.Size
		u.Allocated += v.Allocated
	}
	return u, nil
}

// needSpace returns ErrNoSpace if n more bytes do not fit beside the reserve.
func (p *Pool) needSpace(n int64) error {
	space, err := p.measure()
	if err != nil {
		return err
	}
	if keep := space.Reserve(p.cfg.Reserve); n+keep > space.Free {
		return fmt.Errorf("%w: %d bytes are needed, %d are free, of which %d are kept free", storage.ErrNoSpace, n, space.Free, keep)
	}
	return nil
}

// classify maps errors of the file system and of qemu-img to the error classes of
// package storage.
func classify(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, qemuimg.ErrNoSpace):
		return fmt.Errorf("%w: %w", storage.ErrNoSpace, err)
	case errors.Is(err, qemuimg.ErrFormat), errors.Is(err, qemuimg.ErrUnsafe), errors.Is(err, qemuimg.ErrTooLarge):
		return fmt.Errorf("%w: %w", storage.ErrUnsafeSource, err)
	}
	return err
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
