package raftstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// errNotTaken: the local Raft does not take what a source has sent.
var errNotTaken = errors.New("the local log does not continue with it")

// passEntries passes the entries that a source has sent to the local Raft, as its leader
// would. An answer without entries still tells Raft that its leader lives, if the source has heard
// the leader.
func (s *Store) passEntries(from string, a *pullAnswer) error {
	after := s.committedIndex()
	if n := len(a.entries); n > 0 && a.entries[0].Index != after+1 {
		return fmt.Errorf("%w: entries from %d on, after %d", errNotTaken, a.entries[0].Index, after)
	}
	header, heard := s.feedHeader(a)
	if len(a.entries) == 0 && !heard {
		return nil
	}
	term := max(s.raft.CurrentTerm(), a.Leader.Term)
	if n := len(a.entries); n > 0 {
		term = max(term, a.entries[n-1].Term)
	}
	prev := a.PrevTerm
	if prev == 0 && after > 0 {
		var err error
		if prev, err = s.termAt(after); err != nil {
			return err
		}
	}
	if n := len(a.entries); n > 0 {
		if err := s.noteFed(a.entries[n-1].Index, from); err != nil {
			return err
		}
		if err := s.noteFedConfigurations(a.entries); err != nil {
			return err
		}
	}
	// Only what was sent is known to be committed. The local log may have more, from when
	// this replica was in the configuration.
	return s.passToRaft(raft.RPC{Command: &raft.AppendEntriesRequest{
		RPCHeader: header, Term: term, PrevLogEntry: after, PrevLogTerm: prev,
		Entries: a.entries, LeaderCommitIndex: after + uint64(len(a.entries)),
	}})
}

// feedHeader names the leader to the local Raft: the one that the source names, if it has
// heard that one lately and it is a voter. heard says whether it is.
func (s *Store) feedHeader(a *pullAnswer) (header raft.RPCHeader, heard bool) {
	header.ProtocolVersion = raft.ProtocolVersionMax
	servers, err := s.servers()
	votes := func(srv raft.Server) bool { return srv.Suffrage == raft.Voter && string(srv.ID) == a.Leader.ID }
	heard = a.Leader.Age >= 0 && a.Leader.Age <= s.staleFeed() && err == nil && slices.ContainsFunc(servers, votes)
	addr, id := s.raft.LeaderWithID()
	header.Addr, header.ID = []byte(addr), []byte(id)
	if heard && a.Leader.Addr != "" {
		header.Addr, header.ID = []byte(a.Leader.Addr), []byte(a.Leader.ID)
	}
	return header, heard
}

// passToRaft passes a message to the local Raft and waits until it has been dealt with.
func (s *Store) passToRaft(rpc raft.RPC) error {
	answers := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answers
	s.transport.pass(rpc)
	var answer raft.RPCResponse
	select {
	case answer = <-answers:
	case <-s.closing:
		return ErrClosed
	case <-s.stopped:
		return ErrClosed
	}
	taken := false
	switch r := answer.Response.(type) {
	case *raft.AppendEntriesResponse:
		taken = r.Success
	case *raft.InstallSnapshotResponse:
		taken = r.Success
	}
	if answer.Error != nil {
		return fmt.Errorf("%w: %w", errNotTaken, answer.Error)
	}
	if !taken {
		return errNotTaken
	}
	return nil
}
