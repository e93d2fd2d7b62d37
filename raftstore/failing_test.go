package raftstore

import "github.com/hashicorp/raft"

// failingLog calls a function before each write, which may make the write fail. read, if
// set, is called before each read.
type failingLog struct {
	*walLog
	fail func() error
	read func(act string) error
}

// StoreLogs implements raft.LogStore.
func (l failingLog) StoreLogs(logs []*raft.Log) error {
	if err := l.fail(); err != nil {
		return err
	}
	return l.walLog.StoreLogs(logs)
}

// FirstIndex implements raft.LogStore.
func (l failingLog) FirstIndex() (uint64, error) {
	if err := l.failRead("FirstIndex"); err != nil {
		return 0, err
	}
	return l.walLog.FirstIndex()
}

// GetLog implements raft.LogStore.
func (l failingLog) GetLog(index uint64, log *raft.Log) error {
	if err := l.failRead("GetLog"); err != nil {
		return err
	}
	return l.walLog.GetLog(index, log)
}

// Get implements raft.StableStore.
func (l failingLog) Get(key []byte) ([]byte, error) {
	if err := l.failRead("Get"); err != nil {
		return nil, err
	}
	return l.walLog.Get(key)
}

func (l failingLog) failRead(act string) error {
	if l.read == nil {
		return nil
	}
	return l.read(act)
}

// slowDeletes calls a function before it deletes entries.
type slowDeletes struct {
	*walLog
	before func()
}

// DeleteRange implements raft.LogStore.
func (l slowDeletes) DeleteRange(from, to uint64) error {
	l.before()
	return l.walLog.DeleteRange(from, to)
}
