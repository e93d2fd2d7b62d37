package raftstore

import (
	"bytes"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// Introduce makes s, which is in no group, a replica of the group of a voter, that gets its
// log from Feed.
func Introduce(s, voter *Store) error {
	if err := s.group.adopt(voter.group.current()); err != nil {
		return err
	}
	return s.introduceVoters(voter.voterLog.newest().voters)
}

// Feed hands s the committed entries of another replica that it does not have, as a feeder
// named by that would. forge may change an entry on the way.
func Feed(s, from *Store, by string, forge func(*raft.Log)) error {
	after := s.raft.LastIndex()
	last := max(after, from.applied.get()) // without entries, it says that the leader lives
	request := &raft.AppendEntriesRequest{
		RPCHeader: headerOf(from),
		Term:      from.raft.CurrentTerm(), PrevLogEntry: after, LeaderCommitIndex: last,
	}
	var l raft.Log
	if after > 0 {
		if err := from.disk.logs.GetLog(after, &l); err == nil {
			request.PrevLogTerm = l.Term
		}
	}
	for i := after + 1; i <= last; i++ {
		next := new(raft.Log)
		if err := from.disk.logs.GetLog(i, next); err != nil {
			return err
		}
		if forge != nil {
			forge(next)
		}
		request.Entries = append(request.Entries, next)
	}
	if err := s.noteFed(last, by); err != nil {
		return err
	}
	return s.handToRaft(request, nil, last)
}

// FeedSnapshot hands s a snapshot of another replica's state, as a feeder would. forge may
// return another value for a key.
func FeedSnapshot(s, from *Store, by string, forge func(key string) []byte) error {
	if err := from.Snapshot(); err != nil {
		return err
	}
	list, err := from.disk.listSnapshots()
	if err != nil {
		return err
	}
	meta, r, err := from.disk.snapshots.Open(list[0].ID)
	if err != nil {
		return err
	}
	defer r.Close()
	m, index, err := readSnapshot(r, from.constraints, from.cfg.FeatureLevel)
	if err != nil {
		return err
	}
	if forge != nil {
		m.tree.Scan(func(r *stored) bool {
			if value := forge(r.key); value != nil {
				r.value = packed{bytes: value}
			}
			return true
		})
	}
	var data bytes.Buffer
	if err := m.snapshot(index).write(&data); err != nil {
		return err
	}
	if err := s.noteFedSnapshot(index, by); err != nil {
		return err
	}
	return s.handToRaft(&raft.InstallSnapshotRequest{
		RPCHeader:       headerOf(from),
		SnapshotVersion: raft.SnapshotVersionMax, Term: from.raft.CurrentTerm(), Leader: []byte(by),
		LastLogIndex: meta.Index, LastLogTerm: meta.Term, Size: int64(data.Len()),
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}, &data, index)
}

// headerOf names the leader that a replica follows, as feeds do.
func headerOf(s *Store) raft.RPCHeader {
	addr, id := s.raft.LeaderWithID()
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr)}
}

func (s *Store) handToRaft(request any, data io.Reader, last uint64) error {
	if err := s.passToRaft(raft.RPC{Command: request, Reader: data}); err != nil {
		return err
	}
	if err := s.applied.wait(s.base, last); err != nil {
		return fmt.Errorf("fed up to %d: %w", last, err)
	}
	return nil
}

// ForgeValue makes an entry put another value of the same length.
func ForgeValue(from, to string) func(*raft.Log) {
	return func(l *raft.Log) {
		if l.Type != raft.LogCommand {
			return
		}
		envelopes, err := decodeEntry(l.Data)
		if err != nil {
			panic(err)
		}
		for i, e := range envelopes {
			envelopes[i] = bytes.ReplaceAll(e, []byte(from), []byte(to))
		}
		l.Data = encodeEntry(BaseLevel, envelopes)
	}
}

// PassStatements hands s the newest statements that another replica has to pass on. It
// reports whether there were any.
func PassStatements(s, from *Store) bool {
	bundle, _ := from.newestStatements(statementsRank{})
	if bundle != nil {
		s.takeStatements(bundle)
	}
	return bundle != nil
}

// StatementsIndex returns the log index of the newest statements that s has to pass on.
func StatementsIndex(s *Store) uint64 {
	_, rank := s.newestStatements(statementsRank{})
	return rank.Index
}

// FedTo returns the log index up to which s was fed by another replica.
func FedTo(s *Store) uint64 {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.fed
}
