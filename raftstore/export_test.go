package raftstore

import (
	"errors"
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

// InterruptRecovery leaves cfg.DataDir as a recovery does that ends early.
func InterruptRecovery(cfg Config) error {
	return onDisk(cfg, func(d *disk) error {
		fresh := newIncarnation()
		return d.stable.Set(keyRecovering, fresh[:])
	})
}

// InterruptBootstrap leaves cfg.DataDir as a bootstrap does that ends early.
func InterruptBootstrap(cfg Config) error {
	return onDisk(cfg, func(d *disk) error {
		return errors.Join(d.setGroup(newIncarnation(), true), d.stable.SetUint64(keyTerm, 1))
	})
}

func onDisk(cfg Config, do func(*disk) error) error {
	d, err := openDisk(&cfg, cfg.Logger, newMetrics(nil))
	if err != nil {
		return err
	}
	return errors.Join(do(d), d.close(0))
}
