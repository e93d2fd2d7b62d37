package raftstore

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// minTrailing and maxTrailing bound how many log entries are kept behind a
// snapshot.
const (
	minTrailing = 64
	maxTrailing = 16384
)

// snapshotIfDue takes a snapshot if the log applied since the last one exceeds one
// of the limits.
func (s *Store) snapshotIfDue() {
	entries, bytes := s.fsm.logEntries.Load(), s.fsm.logBytes.Load()
	if entries < s.snapshotDue(s.cfg.Limits.SnapshotEntries) && bytes < s.snapshotDue(s.cfg.Limits.SnapshotBytes) {
		return
	}
	if err := s.Snapshot(); err != nil {
		s.log.Warn("snapshot failed", "err", err)
	}
}

// snapshotDue raises limit by up to half, by an amount that depends on the
// replica's ID. All replicas apply the same entries and should not all write their
// snapshots at the same time.
func (s *Store) snapshotDue(limit uint64) uint64 {
	spread := uint64(crc32.Checksum([]byte(s.id), castagnoli)) % 512
	return limit + limit/1024*spread
}

// Snapshot writes a snapshot and drops the log that it replaces, apart from about
// Limits.TrailingBytes. Writes continue meanwhile.
func (s *Store) Snapshot() error {
	s.snapshotting.Lock()
	defer s.snapshotting.Unlock()
	entries, bytes := s.fsm.logEntries.Load(), s.fsm.logBytes.Load()
	// Raft keeps a number of entries, but the limit is in bytes.
	if entries > 0 {
		conf := s.raft.ReloadableConfig()
		conf.TrailingLogs = min(max(s.cfg.Limits.TrailingBytes/max(bytes/entries, 1), minTrailing), maxTrailing)
		if err := s.raft.ReloadConfig(conf); err != nil {
			return fmt.Errorf("take snapshot: %w", err)
		}
	}
	err := s.raft.Snapshot().Error()
	switch {
	case errors.Is(err, raft.ErrNothingNewToSnapshot):
		return nil
	case err != nil:
		s.metrics.snapshots.WithLabelValues("error").Inc()
		return fmt.Errorf("take snapshot: %w", err)
	}
	s.fsm.logEntries.Add(-entries)
	s.fsm.logBytes.Add(-bytes)
	s.metrics.snapshots.WithLabelValues("ok").Inc()
	return nil
}
