package raftstore

import (
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// failingLog asks before it writes.
type failingLog struct {
	*wal.WAL
	fail func() error
}

// StoreLogs implements raft.LogStore.
func (l failingLog) StoreLogs(logs []*raft.Log) error {
	if err := l.fail(); err != nil {
		return err
	}
	return l.WAL.StoreLogs(logs)
}
