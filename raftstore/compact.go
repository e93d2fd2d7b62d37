package raftstore

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

const (
	minTrailing = 64
	maxTrailing = 16384
)

// snapshotIfDue takes a snapshot when the log applied since the last one passes
// a bound.
func (s *Store) snapshotIfDue() {
	entries, bytes := s.fsm.logEntries.Load(), s.fsm.logBytes.Load()
	if entries < s.snapshotDue(s.cfg.Limits.SnapshotEntries) && bytes < s.snapshotDue(s.cfg.Limits.SnapshotBytes) {
		return
	}
	if err := s.Snapshot(); err != nil {
		s.log.Warn("snapshot failed", "err", err)
	}
}

// snapshotDue spreads a bound by the replica's ID, from the bound to half as much
// again: all replicas apply the same entries and should not all write at once.
func (s *Store) snapshotDue(bound uint64) uint64 {
	spread := uint64(crc32.Checksum([]byte(s.id), castagnoli)) % 512
	return bound + bound/1024*spread
}

// Snapshot writes a snapshot and cuts the log behind it. Writes go on meanwhile.
func (s *Store) Snapshot() error {
	s.snapshotting.Lock()
	defer s.snapshotting.Unlock()
	entries, bytes := s.fsm.logEntries.Load(), s.fsm.logBytes.Load()
	// Raft keeps a number of entries; we bound their bytes.
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
