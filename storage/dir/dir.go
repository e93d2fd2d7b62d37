// Package dir keeps volumes as files in a folder: on the host's own file system,
// or on one that several hosts mount.
//
//	volumes/<name>/disk.img         the disk of a raw volume, a sparse file
//	volumes/<name>/disk.qcow2       or of a qcow2 volume
//	volumes/<name>/volume.json      what was created, never changed
//	volumes/<name>/lock             locked by operations on the volume
//	volumes/<name>/snapshots/<s>/   disk.* and snapshot.json of a snapshot
//	tmp/<host>-*                    what is being made or removed by that host
//	pool.json                       what tells this pool from others
//
// The last tells the pool from the bare directory that is seen when its file
// system is not mounted. There nothing is made, and nothing counts as deleted.
//
// Invariants: a folder below volumes/ or snapshots/ is whole, for it is renamed
// there from tmp/ once everything in it is on disk, and renamed away before it is
// taken apart (where a full disk forbids that, its record goes first). So a crash at any point leaves at worst something in tmp/, which
// the next Open on that host removes. Two hosts that create one name at once race
// to the rename, and the second gets ErrExists. Locks are POSIX record locks,
// which NFS carries between hosts and the kernel drops when a process dies.
//
// Sizes are read off the disk, not off volume.json, so that growth by a
// hypervisor or a crash amid Expand leaves no lie behind. The format is what
// volume.json says: a guest may write any header into its raw disk.
//
// The driver does not mount, does not measure quotas, and does not move files
// between folders.
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

// Config says what pool to open.
type Config struct {
	// Name is the pool's name.
	Name string
	// Dir is the folder, which is made if need be.
	Dir string
	// Host is this host's name: it tells what it left unfinished from what other
	// hosts are at work on.
	Host string
	// Shared says that other hosts open the same folder.
	Shared bool
	// DefaultFormat is the format of volumes that ask for none.
	DefaultFormat storage.Format
	// Memory is a file outside of Dir where this host notes which pool it found
	// there, so that it is not made anew when it is away. Empty for none.
	Memory string
	// UID and GID own the disks, so that an unprivileged QEMU opens them and
	// others do not; -1 leaves them to this process's user. qemu-img runs as them
	// too, if this process may choose.
	UID, GID int
	// Tool makes and converts qcow2 images.
	Tool qemuimg.Tool
	Log  *slog.Logger
}

// DefaultConfig is a host-local pool of raw volumes in dir.
func DefaultConfig(name, dir string) Config {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	return Config{Name: name, Dir: dir, Host: host, DefaultFormat: storage.Raw, UID: -1, GID: -1,
		Tool: qemuimg.DefaultTool(), Log: slog.New(slog.DiscardHandler)}
}

// Validate says what is wrong with c, by field.
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
	case c.Log == nil:
		return fmt.Errorf("dir pool %s: Log is not set", c.Name)
	}
	return nil
}

// Pool is a folder of volumes.
type Pool struct {
	cfg  Config
	info storage.Info
	id   string // as pool.json has it

	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup // operations under way
}

var (
	_ storage.Pool        = (*Pool)(nil)
	_ storage.Snapshotter = (*Pool)(nil)
)

// Open opens the pool in cfg.Dir and removes what this host left unfinished
// there. ErrUnavailable says that the pool this host knows is not there.
func Open(cfg Config) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Tool.Credential == nil && cfg.UID >= 0 && cfg.GID >= 0 && os.Geteuid() == 0 {
		cfg.Tool.Credential = &syscall.Credential{Uid: uint32(cfg.UID), Gid: uint32(cfg.GID)}
	}
	p := &Pool{cfg: cfg}
	if err := p.identify(); err != nil {
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
		// A host called "a" must not remove what "a-b" is at work on.
		if strings.Count(filepath.Base(s), "-") != strings.Count(cfg.Host, "-")+1 {
			continue
		}
		cfg.Log.Info("removing an unfinished volume", "pool", cfg.Name, "path", s)
		if err := os.RemoveAll(s); err != nil {
			return nil, fmt.Errorf("open pool %s: %w", cfg.Name, err)
		}
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

// canClone tries whether the file system shares content between files.
func (p *Pool) canClone() (bool, error) {
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

// begin counts an operation; end is to be deferred.
func (p *Pool) begin(ctx context.Context) (end func(), err error) {
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

// needSpace says whether n more bytes fit.
func (p *Pool) needSpace(n int64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(p.cfg.Dir, &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; n > free {
		return fmt.Errorf("%w: %d bytes are needed, %d are free", storage.ErrNoSpace, n, free)
	}
	return nil
}

// classify gives errors of the file system and of qemu-img the contract's classes.
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
