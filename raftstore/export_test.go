package raftstore

import (
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// UseBolt makes cfg keep its log in a bolt file, to measure it.
func UseBolt(cfg *Config) {
	cfg.openLog = func(dir string) (diskLog, error) {
		return raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	}
}

// WrapLog makes cfg pass its writes to the log through fail first, to see what
// the store does when the disk does not play along.
func WrapLog(cfg *Config, fail func() error) {
	segment, log := cfg.Limits.SegmentBytes, cfg.Logger
	cfg.openLog = func(dir string) (diskLog, error) {
		w, err := openWAL(dir, segment, log)
		return failingLog{w, fail}, err
	}
}

// HandOver makes s, which leads, hand over to another replica.
func HandOver(s, to *Store) error {
	return s.raft.LeadershipTransferToServer(to.id, raft.ServerAddress(to.cfg.Addr)).Error()
}

// ReplicaID returns the name of s in the group.
func ReplicaID(s *Store) string { return string(s.id) }

// AskTerm asks s for its term as the leader does, meaning a replica by its ID.
func AskTerm(s *Store, id string) error {
	_, err := s.serveTerm([]byte(id))
	return err
}
