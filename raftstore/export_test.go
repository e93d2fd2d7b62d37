package raftstore

import (
	"path/filepath"

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
