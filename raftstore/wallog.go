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
// makes it up, see mendTail, whenever the log is opened and when a write fails so. Other
// changes that fail half-way leave the library's log in doubt, see change.
type walLog struct {
	dir     string
	bytes   int // the size of a file
	files   LogFiles
	library hclog.Logger

	mu       sync.RWMutex // held for writing while wal is replaced
	wal      *wal.WAL
	doubtful bool // wal may not agree with the list of files on the disk
	// trim says that what the disk holds behind the entry at end was not stored for Raft: the
	// write failed.
	trim bool
	end  uint64
}

var (
	_ raft.LogStore          = (*walLog)(nil)
	_ raft.MonotonicLogStore = (*walLog)(nil)
	_ raft.StableStore       = (*walLog)(nil)
)

// openWAL opens the log in dir, which goes on in the ballast when the disk is full; nil for
// none.
func openWAL(cfg *Config, dir string, log *slog.Logger, room *ballast) (*walLog, error) {
	l := &walLog{dir: dir, bytes: cfg.Limits.SegmentBytes, library: newHclog(log, "wal")}
	if cfg.LogFiles != nil {
		l.files = cfg.LogFiles(dir)
	} else {
		l.files = LogFiles{walFS{fs.New(), room}, &metadb.BoltMetaDB{}}
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

// reopen opens the log anew. The caller holds l.mu for writing.
func (l *walLog) reopen() error {
	old := l.wal
	if err := l.open(); err != nil {
		return err
	}
	if err := old.Close(); err != nil {
		return err
	}
	if l.trim {
		if err := cutEnd(l.wal, l.end); err != nil {
			return err
		}
	}
	l.doubtful, l.trim = false, false
	return nil
}

// cutEnd deletes what is behind the entry at end.
func cutEnd(w *wal.WAL, end uint64) error {
	last, err := w.LastIndex()
	if err != nil || last <= end {
		return err
	}
	first, err := w.FirstIndex()
	if err != nil {
		return err
	}
	return w.DeleteRange(max(first, end+1), last)
}

// use calls do with a log that agrees with the list of files on the disk.
func (l *walLog) use(do func(*wal.WAL) error) error {
	l.mu.RLock()
	if !l.doubtful {
		defer l.mu.RUnlock()
		return do(l.wal)
	}
	l.mu.RUnlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.doubtful {
		if err := l.reopen(); err != nil {
			return fmt.Errorf("open the log again, after a change of it failed: %w", err)
		}
	}
	return do(l.wal)
}

// change calls do, which changes the log. A change that fails for lack of a file may have
// changed the list of files on the disk, but not the log in memory; what is then read is
// not what the next opening finds, and what is written may be in a file that it deletes.
// So after any error but ErrSealed, which changes nothing, the log is opened again before
// its next use.
func (l *walLog) change(do func(*wal.WAL) error) error {
	err := l.use(do)
	if errors.Is(err, wal.ErrSealed) {
		l.mu.Lock()
		err = l.reopen()
		l.mu.Unlock()
		if err != nil {
			return err
		}
		err = l.use(do)
	}
	if err != nil && !errors.Is(err, wal.ErrSealed) {
		l.mu.Lock()
		l.doubtful = true
		l.mu.Unlock()
	}
	return err
}

// StoreLogs implements raft.LogStore.
func (l *walLog) StoreLogs(logs []*raft.Log) error {
	end, err := l.LastIndex()
	if err != nil {
		return err
	}
	err = l.change(func(w *wal.WAL) error { return w.StoreLogs(logs) })
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.trim, l.end = true, end
	}
	return err
}

// StoreLog implements raft.LogStore.
func (l *walLog) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// IsMonotonic implements raft.MonotonicLogStore.
func (l *walLog) IsMonotonic() bool { return true }

// FirstIndex implements raft.LogStore.
func (l *walLog) FirstIndex() (index uint64, err error) {
	err = l.use(func(w *wal.WAL) (err error) { index, err = w.FirstIndex(); return err })
	return index, err
}

// LastIndex implements raft.LogStore.
func (l *walLog) LastIndex() (index uint64, err error) {
	err = l.use(func(w *wal.WAL) (err error) { index, err = w.LastIndex(); return err })
	return index, err
}

// GetLog implements raft.LogStore.
func (l *walLog) GetLog(index uint64, log *raft.Log) error {
	return l.use(func(w *wal.WAL) error { return w.GetLog(index, log) })
}

// DeleteRange implements raft.LogStore.
func (l *walLog) DeleteRange(from, to uint64) error {
	return l.change(func(w *wal.WAL) error { return w.DeleteRange(from, to) })
}

// The values of the stable store are kept beside the list of files, so they are not in
// doubt with the log.

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
