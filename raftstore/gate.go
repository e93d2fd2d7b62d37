package raftstore

import (
	"io"

	"github.com/hashicorp/raft"
)

// What reaches the local Raft, from the network, from a feed or as an announcement, passes
// here. Raft (v1.8.0) must not see two things as they come.
//
// A snapshot that the local log leads to: Raft would drop all of the log, also what lies
// behind the snapshot, and still believe that it is there. The replica keeps the log, as the
// Raft paper has it. A leader sends such a snapshot to a follower that is being promoted,
// because it does not know how far the follower's source has brought it; or the network
// delivers one late.
//
// What follows a snapshot, to a replica whose log reached as far as the snapshot or further,
// with other entries, as a former leader's may: Raft drops the log, and still believes that
// its end is there. It would refuse what follows, and be sent the snapshot again and again
// without a pause, until there is a later one.

// logPoint is an entry of the log.
type logPoint struct{ index, term uint64 }

// pass passes a message to Raft. Its answer goes to whoever has sent it.
func (t *meshTransport) pass(rpc raft.RPC) {
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		rpc.Command = t.behind(req)
	case *raft.InstallSnapshotRequest:
		t.passSnapshot(rpc, req)
		return
	}
	t.hand(rpc)
}

func (t *meshTransport) hand(rpc raft.RPC) {
	select {
	case t.rpcs <- rpc:
	case <-t.closing:
	case <-t.stopped:
	}
}

// askRaft passes a message to Raft and waits for the answer. It returns false if the store is
// closed, or Raft has stopped.
func (t *meshTransport) askRaft(command any, r io.Reader) (raft.RPCResponse, bool) {
	answers := make(chan raft.RPCResponse, 1)
	t.hand(raft.RPC{RespChan: answers, Command: command, Reader: r})
	select {
	case answer := <-answers:
		return answer, true
	case <-t.closing:
	case <-t.stopped:
	}
	return raft.RPCResponse{}, false
}

// passSnapshot passes a snapshot to Raft, unless the local log leads to it.
func (t *meshTransport) passSnapshot(rpc raft.RPC, req *raft.InstallSnapshotRequest) {
	point := logPoint{req.LastLogIndex, req.LastLogTerm}
	answer, ok := t.askRaft(t.behind(&raft.AppendEntriesRequest{
		RPCHeader: req.RPCHeader, Term: req.Term, PrevLogEntry: point.index, PrevLogTerm: point.term,
	}), nil)
	if !ok {
		return
	}
	if r, ok := answer.Response.(*raft.AppendEntriesResponse); ok && answer.Error == nil && r.Success {
		_, _ = io.Copy(io.Discard, rpc.Reader) // whatever comes, the connection's reader sees it next
		t.installed(point)
		rpc.Respond(&raft.InstallSnapshotResponse{Term: r.Term, Success: true}, nil)
		return
	}
	if answer, ok = t.askRaft(req, rpc.Reader); !ok {
		return
	}
	if r, ok := answer.Response.(*raft.InstallSnapshotResponse); ok && answer.Error == nil && r.Success {
		t.installed(point)
	}
	rpc.Respond(answer.Response, answer.Error)
}

// behindSnapshot returns entries as the local Raft can take them. If they follow the snapshot
// that is all this replica has, Raft does not compare what comes before them with the log
// that it believes in: this does. And what a message does not show to be in the log it does
// not commit, as the Raft paper has it: Raft would commit up to the end of the log that it
// believes in.
func (s *Store) behindSnapshot(req *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	shown := req.PrevLogEntry + uint64(len(req.Entries))
	follows := req.PrevLogEntry > 0 && s.disk.isBare(logPoint{req.PrevLogEntry, req.PrevLogTerm})
	if !follows && req.LeaderCommitIndex <= shown {
		return req
	}
	changed := *req
	changed.LeaderCommitIndex = min(req.LeaderCommitIndex, shown)
	if follows {
		changed.PrevLogEntry, changed.PrevLogTerm = 0, 0
	}
	return &changed
}

// isBare reports whether a snapshot that ends with the given entry is all that is stored.
func (d *disk) isBare(end logPoint) bool {
	installed := d.installed.Load()
	return installed != nil && *installed == end && d.logs.isEmpty()
}

// installedIndex returns the index of the snapshot that this replica was last given, zero if
// it was given none.
func (d *disk) installedIndex() uint64 {
	if installed := d.installed.Load(); installed != nil {
		return installed.index
	}
	return 0
}

// raftLog is the log as the local Raft reads it. Where nothing but a snapshot is stored, it
// shows Raft an entry of term 0 in the place of each that Raft believes in: no entry has that
// term, so Raft gives them up for those that follow the snapshot.
type raftLog struct {
	*logStore
	installed func() uint64
}

var _ raft.MonotonicLogStore = raftLog{}

// GetLog implements raft.LogStore.
func (l raftLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.logStore.GetLog(index, entry)
	if err == raft.ErrLogNotFound && index > l.installed() && l.isEmpty() { //nolint:errorlint // as raft compares it
		*entry = raft.Log{Index: index}
		return nil
	}
	return err
}

// DeleteRange implements raft.LogStore.
func (l raftLog) DeleteRange(lo, hi uint64) error {
	if l.isEmpty() {
		return nil
	}
	return l.logStore.DeleteRange(lo, hi)
}

// isEmpty reports whether no entry is stored.
func (s *logStore) isEmpty() bool {
	last, err := s.LastIndex()
	return err == nil && last == 0
}
