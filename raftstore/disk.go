package raftstore

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// keepSnapshots is how many snapshots stay on disk: the newest one, which the
	// store reads, and the one before it.
	keepSnapshots = 2
	// lockWait is how long Open waits for another process to release the lock.
	lockWait = 2 * time.Second
)

// Keys of the stable store beside raft's own.
var (
	keyApplied = []byte("VirtmeshApplied") // log index known to be committed at Close
	keyReplica = []byte("VirtmeshReplica") // random ID of this data directory
)

// disk is everything that a replica stores: its log, its vote and its snapshots.
type disk struct {
	dir       string // empty if everything is in memory
	logs      *logStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	committed func() uint64
	closers   []io.Closer
	ballast   *ballast // nil if everything is in memory
	// installed is the end of the snapshot that this replica was last given, at the start by
	// its disk; nil if it was given none. It is set when the log no longer holds anything else.
	installed atomic.Pointer[logPoint]
	// replayed is the index up to which the log was known to be committed when it was opened.
	replayed uint64
}

// diskLog stores both the log and the vote.
type diskLog interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

var _ diskLog = (*walLog)(nil)

// openDisk opens the state in cfg.DataDir and creates it if there is none.
func openDisk(cfg *Config, log *slog.Logger, m *metrics) (*disk, error) {
	d := &disk{committed: func() uint64 { return 0 }}
	committed := func() uint64 { return d.committed() }
	if cfg.DataDir == "" {
		mem := raft.NewInmemStore()
		d.logs = newLogStore(mem, committed, &cfg.Limits, m)
		d.stable = mem
		d.snapshots = raft.NewInmemSnapshotStore()
		return d, nil
	}
	dir := filepath.Join(cfg.DataDir, "wal")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	lock, err := lockDir(cfg.DataDir, lockWait)
	if err != nil {
		return nil, err
	}
	if d.ballast, err = openBallast(filepath.Join(cfg.DataDir, "ballast"), cfg.Limits.BallastFiles, cfg.Limits.SegmentBytes, log); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	open := cfg.openLog
	if open == nil {
		open = func(dir string) (diskLog, error) { return openWAL(cfg, dir, log, d.ballast) }
	}
	w, err := openLog(dir, open)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.DataDir, keepSnapshots, newHclog(log, "snapshot"))
	if err != nil {
		return nil, errors.Join(diskError(err, "open snapshots in %s", cfg.DataDir), w.Close(), lock.Close())
	}
	if cfg.Limits.BallastFiles > 0 {
		allocateMeta(dir)
	}
	kept := ballastedLog{w, d.ballast}
	d.logs = newLogStore(kept, committed, &cfg.Limits, m)
	d.stable = kept
	d.snapshots = snapshots
	d.closers = []io.Closer{w, lock}
	d.dir = cfg.DataDir
	if err := d.logs.noteStored(bytesIn(dir)); err != nil {
		return nil, errors.Join(diskError(err, "open log in %s", dir), w.Close(), lock.Close())
	}
	return d, nil
}

// bytesIn returns what the files in a directory take.
func bytesIn(dir string) (sum uint64) {
	files, _ := os.ReadDir(dir) // what cannot be read counts as nothing
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			sum += uint64(info.Size())
		}
	}
	return sum
}

// openLog opens the log. The library panics on some kinds of damage.
func openLog(dir string, open func(dir string) (diskLog, error)) (w diskLog, err error) {
	defer func() {
		if p := recover(); p != nil {
			w, err = nil, fmt.Errorf("%w: %v", errPanic, p)
		}
		if err != nil {
			err = diskError(err, "open log in %s", dir)
		}
	}()
	return open(dir)
}

// dirLock is held while a process has a data directory open.
type dirLock struct{ f *os.File }

// lockDir takes the lock of a data directory. If another process still holds the
// lock after wait, the error names its pid.
func lockDir(dir string, wait time.Duration) (*dirLock, error) {
	path := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for deadline := time.Now().Add(wait); ; time.Sleep(50 * time.Millisecond) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || time.Now().After(deadline) {
			owner, _ := io.ReadAll(io.LimitReader(f, 32))
			if errors.Is(err, syscall.EWOULDBLOCK) { // which says less than ErrLocked
				err = nil
			}
			return nil, errors.Join(fmt.Errorf("%w: %s, held by pid %s", ErrLocked, path, strings.TrimSpace(string(owner))), err, f.Close())
		}
	}
	// The pid in the file is only for people to read; the lock itself is the flock.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return &dirLock{f}, nil
}

// Close releases the lock.
func (l *dirLock) Close() error { return l.f.Close() }

// replay restores the newest snapshot and then applies the log behind it, up to
// the index that was known to be committed when the replica stopped. Raft itself
// would stop at the snapshot until a leader reports a commit index, and a host that
// starts without a quorum would act on an outdated state. When Raft later applies
// the same entries again, the fsm skips them by their index.
func (d *disk) replay(ctx context.Context, f *fsm) error {
	base, term, err := d.restoreSnapshot(f)
	if err != nil {
		return err
	}
	d.replayed = base
	first, last, err := d.logRange()
	if err != nil {
		return err
	}
	atClose, err := d.committedAtClose()
	if err != nil {
		return err
	}
	if end := max(base, last); atClose > end {
		return fmt.Errorf("%w: the state ends at log index %d, and was committed up to %d", ErrCorruptLog, end, atClose)
	}
	if dropped, err := d.dropOtherLog(base, term); err != nil || dropped {
		return err
	}
	if last <= base {
		return nil
	}
	if first > base+1 {
		return fmt.Errorf("%w: log begins at %d, the state ends at %d", ErrCorruptLog, first, base)
	}
	committed, err := d.logs.committedAt(last)
	if err != nil {
		return diskError(err, "read log index %d", last)
	}
	committed = max(committed, atClose)
	d.replayed = max(base, min(committed, last))
	for i := base + 1; i <= last; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		// Uncommitted entries are read as well, because Raft panics on a log that it
		// cannot read.
		l := new(raft.Log)
		if err := d.logs.GetLog(i, l); err != nil {
			return diskError(err, "read log index %d", i)
		}
		if i > committed {
			continue
		}
		if err := f.replay(l); err != nil {
			return err
		}
	}
	return nil
}

// dropOtherLog drops a log that does not lead to the snapshot at index base, whose entry has
// the term: the replica stopped after it installed the snapshot and before it dropped the
// log. If the log ends before the snapshot, no entry could be appended to it. If it goes on
// with another entry, what it has from there on was never committed, and would be sent to
// others as if it were. It returns whether it has dropped the log.
func (d *disk) dropOtherLog(base, term uint64) (bool, error) {
	first, last, err := d.logRange()
	if err != nil || last == 0 || base < first {
		return false, err
	}
	if last >= base {
		var l raft.Log
		if err := d.logs.GetLog(base, &l); err != nil {
			return false, diskError(err, "read log index %d", base)
		}
		if l.Term == term {
			return false, nil
		}
	}
	if err := d.logs.DeleteRange(first, last); err != nil {
		return false, fmt.Errorf("drop the log before the snapshot: %w", err)
	}
	return true, nil
}

// logRange returns the first and the last index of the log, zero if it is empty.
func (d *disk) logRange() (first, last uint64, err error) {
	if first, err = d.logs.FirstIndex(); err != nil {
		return 0, 0, diskError(err, "read first index")
	}
	if last, err = d.logs.LastIndex(); err != nil {
		return 0, 0, diskError(err, "read last index")
	}
	return first, last, nil
}

// restoreSnapshot restores the newest snapshot and returns the index and the term of its
// last entry, or zero if there is none.
func (d *disk) restoreSnapshot(f *fsm) (index, term uint64, err error) {
	list, err := d.listSnapshots()
	if err != nil {
		return 0, 0, err
	}
	if len(list) == 0 {
		return 0, 0, nil
	}
	// Raft relies on the newest snapshot, so an older one is of no use.
	meta := list[0]
	_, r, err := d.snapshots.Open(meta.ID)
	if err != nil {
		return 0, 0, diskError(err, "open snapshot %s", meta.ID)
	}
	defer func() { _ = r.Close() }()
	if err := f.Restore(r); err != nil {
		return 0, 0, fmt.Errorf("snapshot %s: %w", meta.ID, err)
	}
	d.installed.Store(&logPoint{meta.Index, meta.Term})
	return meta.Index, meta.Term, nil
}

// committedAtClose returns the index up to which the log was known to be committed when
// the replica was last closed, zero if it never was.
func (d *disk) committedAtClose() (uint64, error) {
	index, err := d.stable.GetUint64(keyApplied)
	if err != nil && err.Error() != "not found" { // as in get
		return 0, diskError(err, "read %s", keyApplied)
	}
	return index, nil
}

// replicaID returns the Raft ID of the replica: the node's name and a random ID
// stored with the data. A host that loses its data gets a new ID and comes back as
// another replica.
func (d *disk) replicaID(node string) (raft.ServerID, error) {
	own, err := d.get(keyReplica)
	if err != nil {
		return "", err
	}
	if len(own) == 0 {
		var fresh [8]byte
		_, _ = rand.Read(fresh[:]) // never fails
		own = []byte(hex.EncodeToString(fresh[:]))
		if err := d.stable.Set(keyReplica, own); err != nil {
			return "", fmt.Errorf("store replica ID: %w", err)
		}
	}
	return raft.ServerID(node + "/" + string(own)), nil
}

// end returns the index at which the state on the disk ends.
func (d *disk) end() (uint64, error) {
	last, err := d.logs.LastIndex()
	if err != nil {
		return 0, diskError(err, "read last index")
	}
	list, err := d.listSnapshots()
	if err != nil || len(list) == 0 {
		return last, err
	}
	return max(last, list[0].Index), nil
}

// close stores the index up to which the log is known to be committed, and closes
// everything. It never stores an index that the disk does not reach: the next start would
// take that for damage.
func (d *disk) close(committed uint64) error {
	if d == nil {
		return nil
	}
	var errs []error
	if end, err := d.end(); err == nil {
		committed = min(committed, end)
	}
	if committed > 0 {
		if err := d.stable.SetUint64(keyApplied, committed); err != nil {
			errs = append(errs, fmt.Errorf("store committed index: %w", err))
		}
	}
	for _, c := range d.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
