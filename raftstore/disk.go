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
	"syscall"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

const (
	// keepSnapshots is how many snapshots stay, so that a damaged one has an
	// older one behind it.
	keepSnapshots = 2
	// lockWait is how long Open waits for another process to let go.
	lockWait = 2 * time.Second
)

// Keys of the stable store beside raft's own.
var (
	keyApplied = []byte("VirtmeshApplied") // what was applied at Close
	keyReplica = []byte("VirtmeshReplica") // what makes this data directory unique
)

// disk is everything a replica keeps: log, vote and snapshots.
type disk struct {
	logs      *logStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	committed func() uint64
	closers   []io.Closer
}

// diskLog is a log and a vote in one place.
type diskLog interface {
	raft.LogStore
	raft.StableStore
	io.Closer
}

var _ diskLog = (*wal.WAL)(nil)

// openDisk opens, or creates, the state in cfg.DataDir.
func openDisk(cfg *Config, log *slog.Logger, m *metrics) (*disk, error) {
	d := &disk{committed: func() uint64 { return 0 }}
	committed := func() uint64 { return d.committed() }
	if cfg.DataDir == "" {
		mem := raft.NewInmemStore()
		d.logs = newLogStore(mem, committed, m)
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
	open := cfg.openLog
	if open == nil {
		open = func(dir string) (diskLog, error) { return openWAL(dir, cfg.Limits.SegmentBytes, log) }
	}
	w, err := open(dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.DataDir, keepSnapshots, newHclog(log, "snapshot"))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open snapshots in %s: %w", cfg.DataDir, err), w.Close(), lock.Close())
	}
	d.logs = newLogStore(w, committed, m)
	d.stable = w
	d.snapshots = snapshots
	d.closers = []io.Closer{w, lock}
	return d, nil
}

// openWAL opens the log. The library panics on some kinds of damage.
func openWAL(dir string, segment int, log *slog.Logger) (w *wal.WAL, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: open log in %s: %v", ErrCorruptLog, dir, p)
		}
	}()
	w, err = wal.Open(dir, wal.WithSegmentSize(segment), wal.WithLogger(newHclog(log, "wal")))
	switch {
	case err == nil:
		return w, nil
	case errors.Is(err, syscall.ENOSPC):
		return nil, fmt.Errorf("%w: open log in %s: %w", ErrDiskFull, dir, err)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf("open log in %s: %w", dir, err)
	default:
		return nil, fmt.Errorf("%w: open log in %s: %w", ErrCorruptLog, dir, err)
	}
}

// dirLock is held while a process has a data directory open.
type dirLock struct{ f *os.File }

// lockDir takes the lock or says who has it. A process that is just ending is
// given a moment.
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
			return nil, errors.Join(fmt.Errorf("%w: %s, held by pid %s: %w", ErrLocked, path, strings.TrimSpace(string(owner)), err), f.Close())
		}
	}
	// Only for people to read; the lock is the flock.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return &dirLock{f}, nil
}

// Close releases the lock.
func (l *dirLock) Close() error { return l.f.Close() }

// replay brings the machine to where it was known to be committed when the
// replica stopped: the newest readable snapshot and the log behind it. Raft
// itself would stop at the snapshot until a leader tells it more, and a host
// that starts without a quorum would act on a state long gone. What raft applies
// again later is skipped by its index.
func (d *disk) replay(ctx context.Context, f *fsm) error {
	base, err := d.restore(f)
	if err != nil {
		return err
	}
	first, err := d.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("%w: read first index: %w", ErrCorruptLog, err)
	}
	last, err := d.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("%w: read last index: %w", ErrCorruptLog, err)
	}
	if last < base && last > 0 {
		// The replica stopped between installing a snapshot and dropping the log
		// that ends before it; nothing could be appended to that.
		if err := d.logs.DeleteRange(first, last); err != nil {
			return fmt.Errorf("drop the log before the snapshot: %w", err)
		}
	}
	if last <= base {
		return nil
	}
	if first > base+1 {
		return fmt.Errorf("%w: log begins at %d, the state ends at %d", ErrCorruptLog, first, base)
	}
	committed, err := d.committedIndex(last)
	if err != nil {
		return err
	}
	for i := base + 1; i <= last; i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		// What is not committed is read all the same: raft panics on a log it
		// cannot read.
		l := new(raft.Log)
		if err := d.logs.GetLog(i, l); err != nil {
			return fmt.Errorf("%w: read log index %d: %w", ErrCorruptLog, i, err)
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

// restore reads the newest snapshot that is readable, and returns its index.
func (d *disk) restore(f *fsm) (uint64, error) {
	list, err := d.snapshots.List()
	if err != nil {
		return 0, fmt.Errorf("%w: list snapshots: %w", ErrCorruptLog, err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	// Raft takes the newest for granted, so an older one is of no use.
	meta := list[0]
	_, r, err := d.snapshots.Open(meta.ID)
	if err != nil {
		return 0, fmt.Errorf("%w: open snapshot %s: %w", ErrCorruptLog, meta.ID, err)
	}
	defer func() { _ = r.Close() }()
	if err := f.Restore(r); err != nil {
		return 0, fmt.Errorf("snapshot %s: %w", meta.ID, err)
	}
	return meta.Index, nil
}

// committedIndex returns up to where the log is known to be committed.
func (d *disk) committedIndex(last uint64) (uint64, error) {
	committed, err := d.logs.committedAt(last)
	if err != nil {
		return 0, fmt.Errorf("%w: read log index %d: %w", ErrCorruptLog, last, err)
	}
	atClose, err := d.stable.GetUint64(keyApplied)
	if err == nil {
		committed = max(committed, atClose)
	}
	return min(committed, last), nil
}

// replicaID returns the raft ID of the replica whose data this is. Data that is
// lost takes it along, so the host comes back as another replica.
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

// close notes how far the state machine came and closes everything.
func (d *disk) close(applied uint64) error {
	if d == nil {
		return nil
	}
	var errs []error
	if applied > 0 {
		if err := d.stable.SetUint64(keyApplied, applied); err != nil {
			errs = append(errs, fmt.Errorf("store applied index: %w", err))
		}
	}
	for _, c := range d.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
