package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// cacheSlots and cacheBytes bound the cache by the number and the size of entries.
const (
	cacheSlots = 512
	cacheBytes = 8 << 20
)

// entryOverhead is roughly what an entry takes on disk besides its data.
const entryOverhead = 48

// logStore adds five things to Raft's log. It lets a leader send entries while it writes
// them. It stamps stored entries with the index
// up to which the state machine has applied, so that a restarted replica knows what
// is committed without asking another one. It caches the newest entries, because
// replication reads them back at once. It remembers why the last write failed, and how
// old and how large the log is.
type logStore struct {
	raft.LogStore
	// committed returns an index that is certainly committed.
	committed func() uint64
	metrics   *metrics
	failure   atomic.Pointer[error] // error of the last write, nil if it succeeded
	writing   writeClock            // since when entries are being written
	ages      *ages                 // of log indexes
	ahead     *ahead                // gets the entries before they are stored; nil until Raft starts

	mu    sync.Mutex
	cache [cacheSlots]*raft.Log // by index
	first uint64                // lowest index cached
	last  uint64                // highest index cached, 0 if none
	bytes int
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

func newLogStore(under raft.LogStore, committed func() uint64, limits *Limits, m *metrics) *logStore {
	return &logStore{LogStore: under, committed: committed, metrics: m, ages: newAges(retention{
		age: limits.TrailingTime, floor: limits.TrailingFloor, ceiling: limits.TrailingBytes, most: limits.TrailingEntries,
	})}
}

// storedMarks is into how many parts a log that was there before is divided.
const storedMarks = 64

// noteStored tells the ages of a log that was there before: all of it counts as new.
// bytes is what it takes on disk.
func (s *logStore) noteStored(bytes uint64) error {
	first, err := s.FirstIndex()
	if err != nil {
		return fmt.Errorf("read first index: %w", err)
	}
	last, err := s.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	// In equal steps, so that a log that is over the limit is not dropped as a whole.
	s.ages.reset(time.Now(), first-1)
	entries := last - first + 1
	for step, noted := uint64(1), uint64(0); step <= storedMarks; step++ {
		if at := entries * step / storedMarks; at > noted {
			s.ages.add(time.Now(), first-1+at, bytes/entries*(at-noted))
			noted = at
		}
	}
	return nil
}

// IsMonotonic implements raft.MonotonicLogStore.
func (s *logStore) IsMonotonic() bool {
	m, ok := s.LogStore.(raft.MonotonicLogStore)
	return ok && m.IsMonotonic()
}

// StoreLog implements raft.LogStore.
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	if s.ahead != nil {
		s.ahead.sendNew(s.cached(logs[0].Index-1), logs, s.committed())
	}
	// Raft sends the entry itself to the followers, so the stamp is put on a copy.
	stamped := make([]*raft.Log, len(logs))
	copy(stamped, logs)
	last := *logs[len(logs)-1]
	last.Extensions = binary.LittleEndian.AppendUint64(nil, s.committed())
	stamped[len(logs)-1] = &last
	s.writing.begin()
	err := s.LogStore.StoreLogs(stamped)
	s.writing.end()
	if err != nil {
		if s.ahead != nil {
			s.ahead.forgetFollowers() // a leader that cannot write leads no more
		}
		return s.noteFailure(err)
	}
	s.failure.Store(nil)
	bytes := 0
	for _, l := range logs {
		bytes += entryOverhead + len(l.Data)
	}
	s.ages.add(time.Now(), last.Index, uint64(bytes))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range logs {
		s.add(l)
	}
	return nil
}

// noteFailure keeps why the log could not be changed, until it can be written again.
func (s *logStore) noteFailure(err error) error {
	if isFull(err) {
		err = fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	s.failure.Store(&err)
	s.metrics.logErrors.Inc()
	return err
}

// GetLog implements raft.LogStore.
func (s *logStore) GetLog(index uint64, l *raft.Log) error {
	if c := s.cached(index); c != nil {
		*l = *c
		return nil
	}
	err := s.LogStore.GetLog(index, l)
	l.Extensions = nil
	if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
		s.metrics.logErrors.Inc()
	}
	return err
}

// cached returns the entry at index, nil if it is not cached.
func (s *logStore) cached(index uint64) *raft.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.cache[index%cacheSlots]; c != nil && c.Index == index {
		return c
	}
	return nil
}

// DeleteRange implements raft.LogStore.
func (s *logStore) DeleteRange(lo, hi uint64) error {
	s.mu.Lock()
	s.cache = [cacheSlots]*raft.Log{}
	s.first, s.last, s.bytes = 0, 0, 0
	s.mu.Unlock()
	if err := s.LogStore.DeleteRange(lo, hi); err != nil {
		return s.noteFailure(err)
	}
	if last, err := s.LogStore.LastIndex(); err == nil && last == 0 {
		s.ages.reset(time.Now(), hi) // a snapshot has replaced the whole log
	}
	return nil
}

// committedAt returns the stamp of the entry at index, zero if it has none.
func (s *logStore) committedAt(index uint64) (uint64, error) {
	var l raft.Log
	if err := s.LogStore.GetLog(index, &l); err != nil {
		return 0, err
	}
	if len(l.Extensions) != 8 {
		return 0, nil
	}
	return binary.LittleEndian.Uint64(l.Extensions), nil
}

// err returns why the last write failed.
func (s *logStore) err() error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// add caches an entry and drops the oldest entries that exceed the bounds.
func (s *logStore) add(l *raft.Log) {
	if s.last != 0 && l.Index != s.last+1 {
		s.cache = [cacheSlots]*raft.Log{}
		s.last, s.bytes = 0, 0
	}
	if s.last == 0 {
		s.first = l.Index
	}
	for s.last >= s.first && s.last != 0 && (l.Index-s.first >= cacheSlots || s.bytes+len(l.Data) > cacheBytes) {
		old := &s.cache[s.first%cacheSlots]
		s.bytes -= len((*old).Data)
		*old = nil
		s.first++
	}
	s.cache[l.Index%cacheSlots] = l
	s.bytes += len(l.Data)
	s.last = l.Index
}
