package raftstore

import (
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// minTrailing is how many log entries are kept behind a snapshot in any case: a replica
// that is a moment behind, as each is while entries are on their way, needs no snapshot.
const minTrailing = 64

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

// Snapshot writes a snapshot and drops the log that it replaces, apart from what the
// limits let stay (see Limits.TrailingTime). Writes continue meanwhile.
func (s *Store) Snapshot() error {
	s.snapshotting.Lock()
	defer s.snapshotting.Unlock()
	entries, bytes := s.fsm.logEntries.Load(), s.fsm.logBytes.Load()
	// Raft counts the entries to keep from the end of the log.
	conf := s.raft.ReloadableConfig()
	conf.TrailingLogs = minTrailing
	if last, drop := s.raft.LastIndex(), s.disk.logs.ages.dropTo(time.Now()); last > drop+minTrailing {
		conf.TrailingLogs = last - drop
	}
	if err := s.raft.ReloadConfig(conf); err != nil {
		return fmt.Errorf("take snapshot: %w", err)
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
