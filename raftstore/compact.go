package raftstore

import (
	"errors"

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
	if entries < s.cfg.Limits.SnapshotEntries && bytes < s.cfg.Limits.SnapshotBytes {
		return
	}
	if err := s.Snapshot(); err != nil {
		s.log.Warn("snapshot failed", "error", err)
	}
}

// Snapshot writes a snapshot and cuts the log behind it. Writes go on meanwhile.
func (s *Store) Snapshot() error {
	entries, bytes := s.fsm.logEntries.Load(), s.fsm.logBytes.Load()
	// Raft keeps a number of entries; we bound their bytes.
	trailing := uint64(maxTrailing)
	if average := bytes / max(entries, 1); average > 0 {
		trailing = min(max(s.cfg.Limits.TrailingBytes/average, minTrailing), maxTrailing)
	}
	conf := s.raft.ReloadableConfig()
	conf.TrailingLogs = trailing
	if err := s.raft.ReloadConfig(conf); err != nil {
		return err
	}
	err := s.raft.Snapshot().Error()
	switch {
	case err == nil:
		s.metrics.snapshots.WithLabelValues("ok").Inc()
	case errors.Is(err, raft.ErrNothingNewToSnapshot):
		err = nil
	default:
		s.metrics.snapshots.WithLabelValues("error").Inc()
	}
	return err
}
