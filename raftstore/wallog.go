package raftstore

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// LogFiles is where the log is kept: its files, and the list of them with the vote.
type LogFiles struct {
	Files types.VFS
	Meta  types.MetaStore
}

// walLog is a log that raft-wal stores. The library goes on to another file in two steps:
// it seals the old one together with the last write to it, and later notes that and makes
// the new one. If the process dies in between, or the disk is full, it never makes it up,
// and every write fails from then on: with ErrSealed, at each later start too. walLog
// makes it up, see mendTail, whenever the log is opened and when a write fails so.
type walLog struct {
	dir     string
	bytes   int // the size of a file
	files   LogFiles
	library hclog.Logger

	mu  sync.RWMutex // held for writing while wal is replaced
	wal *wal.WAL
}

var (
	_ raft.LogStore          = (*walLog)(nil)
	_ raft.MonotonicLogStore = (*walLog)(nil)
	_ raft.StableStore       = (*walLog)(nil)
)

// openWAL opens the log in dir.
func openWAL(cfg *Config, dir string, log *slog.Logger) (*walLog, error) {
	l := &walLog{dir: dir, bytes: cfg.Limits.SegmentBytes, library: newHclog(log, "wal")}
	if cfg.LogFiles != nil {
		l.files = cfg.LogFiles(dir)
	} else {
		l.files = LogFiles{walFS{fs.New()}, &metadb.BoltMetaDB{}}
	}
	if err := l.open(); err != nil {
		return nil, errors.Join(err, l.files.Meta.Close())
	}
	return l, nil
}

// open opens the log, also while an earlier opening of it still reads.
func (l *walLog) open() error {
	filer := segment.NewFiler(l.dir, l.files.Files)
	if err := mendTail(l.dir, filer, l.files.Meta); err != nil {
		return fmt.Errorf("mend the end of the log: %w", err)
	}
	w, err := wal.Open(l.dir, wal.WithSegmentSize(l.bytes), wal.WithSegmentFiler(filer), wal.WithMetaStore(keptMeta{l.files.Meta}), wal.WithLogger(l.library))
	if err != nil {
		return err
	}
	l.wal = w
	return nil
}

// keptMeta is a MetaStore that outlives the log that uses it.
type keptMeta struct{ types.MetaStore }

// Close implements types.MetaStore.
func (keptMeta) Close() error { return nil }

// reopen opens the log anew.
func (l *walLog) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.wal
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

// StoreLogs implements raft.LogStore.
func (l *walLog) StoreLogs(logs []*raft.Log) error {
	err := l.storeLogs(logs)
	if !errors.Is(err, wal.ErrSealed) {
		return err
	}
	if err := l.reopen(); err != nil {
		return err
	}
	return l.storeLogs(logs)
}

func (l *walLog) storeLogs(logs []*raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.StoreLogs(logs)
}

// StoreLog implements raft.LogStore.
func (l *walLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// IsMonotonic implements raft.MonotonicLogStore.
func (l *walLog) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *walLog) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.FirstIndex()
}

// LastIndex implements raft.LogStore.
func (l *walLog) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.LastIndex()
}

// GetLog implements raft.LogStore.
func (l *walLog) GetLog(index uint64, log *raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.GetLog(index, log)
}

// DeleteRange implements raft.LogStore.
func (l *walLog) DeleteRange(from, to uint64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.DeleteRange(from, to)
}

// Set implements raft.StableStore.
func (l *walLog) Set(key, value []byte) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.Set(key, value)
}

// Get implements raft.StableStore.
func (l *walLog) Get(key []byte) ([]byte, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.Get(key)
}

// SetUint64 implements raft.StableStore.
func (l *walLog) SetUint64(key []byte, value uint64) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.SetUint64(key, value)
}

// GetUint64 implements raft.StableStore.
func (l *walLog) GetUint64(key []byte) (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.wal.GetUint64(key)
}

// Close implements io.Closer.
func (l *walLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.wal.Close(), l.files.Meta.Close())
}
