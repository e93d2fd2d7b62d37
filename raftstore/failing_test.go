package raftstore

import (
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// failingLog calls a function before each write, which may make the write fail.
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
