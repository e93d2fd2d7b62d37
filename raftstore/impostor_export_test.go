package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// SayAs sends a replica, from s, the messages of Raft that would make it obey the replica as, or
// vote for it, in a later term. It returns the answers.
func SayAs(s, to, as *Store) map[string]error {
	header := raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(as.id), Addr: []byte(as.cfg.Addr)}
	term := to.raft.CurrentTerm() + 1
	last := to.raft.LastIndex()
	lastTerm, _ := to.termAt(last)
	addr := raft.ServerAddress(to.cfg.Addr)
	return map[string]error{
		"entries": s.transport.AppendEntries(to.id, addr, &raft.AppendEntriesRequest{
			RPCHeader: header, Term: term, PrevLogEntry: last, PrevLogTerm: lastTerm,
			Entries: []*raft.Log{{Index: last + 1, Term: term, Type: raft.LogNoop}}, LeaderCommitIndex: last + 1,
		}, new(raft.AppendEntriesResponse)),
		"heartbeat": s.transport.AppendEntries(to.id, addr, &raft.AppendEntriesRequest{RPCHeader: header, Term: term}, new(raft.AppendEntriesResponse)),
		"hand over": s.transport.TimeoutNow(to.id, addr, &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse)),
		"snapshot":  SendSnapshotAs(s, to, header, term),
	}
}

// SendSnapshotAs sends the newest snapshot of s with the given header.
func SendSnapshotAs(s, to *Store, header raft.RPCHeader, term uint64) error {
	list, err := s.disk.listSnapshots()
	if err != nil {
		return err
	}
	meta, r, err := s.disk.snapshots.Open(list[0].ID)
	if err != nil {
		return err
	}
	defer r.Close()
	return s.transport.InstallSnapshot(to.id, raft.ServerAddress(to.cfg.Addr), &raft.InstallSnapshotRequest{
		RPCHeader: header, SnapshotVersion: raft.SnapshotVersionMax, Term: term,
		LastLogIndex: to.raft.LastIndex() + 10, LastLogTerm: term, Size: meta.Size,
		Configuration: raft.EncodeConfiguration(meta.Configuration), ConfigurationIndex: meta.ConfigurationIndex,
	}, new(raft.InstallSnapshotResponse), r)
}

// AskForVoteAs asks a replica, from s, for its vote for as, and whether it got it.
func AskForVoteAs(s, to, as *Store) (bool, error) {
	var answer raft.RequestVoteResponse
	err := s.transport.RequestVote(to.id, raft.ServerAddress(to.cfg.Addr), &raft.RequestVoteRequest{
		RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(as.id), Addr: []byte(as.cfg.Addr)},
		Term:      to.raft.CurrentTerm() + 1, LastLogIndex: to.raft.LastIndex() + 1, LastLogTerm: to.raft.CurrentTerm() + 1, LeadershipTransfer: true,
	}, &answer)
	return answer.Granted, err
}

// AnnounceAs tells a replica, from s, that the last entry of its log is committed.
func AnnounceAs(ctx context.Context, s, to *Store) error {
	last := to.raft.LastIndex()
	term, err := to.termAt(last)
	if err != nil {
		return err
	}
	c, err := s.peers.takeConn(ctx, nil, to.cfg.Addr)
	if err != nil {
		return err
	}
	defer c.calls.Add(-1)
	c.offer(opCommitted, announcement{term: to.raft.CurrentTerm(), index: last, entryTerm: term}.encode())
	return nil
}

// CommitIndex returns up to where s knows the log to be committed.
func CommitIndex(s *Store) uint64 { return s.raft.CommitIndex() }

// AskLeaderAs sends the leader, from s, what only the host of the replica as may ask.
func AskLeaderAs(ctx context.Context, s, leader, as *Store) map[string]error {
	add, _ := json.Marshal(replica{ID: string(as.id), Addr: s.cfg.Addr, Group: s.group.current(), Levels: s.levels.known})
	remove, _ := json.Marshal(replica{ID: as.cfg.NodeID})
	lease, _ := json.Marshal(LeaseRequest{LeaseHolder: LeaseHolder{Host: as.cfg.NodeID, BootID: "boot"}, TTL: 9 * time.Second})
	report, _ := encodePull([]reportLine{{ID: string(as.id), Addr: s.cfg.Addr}})
	answers := map[string]error{}
	for name, q := range map[string]struct {
		op      opcode
		payload []byte
	}{"add": {opAddReplica, add}, "remove": {opRemoveReplica, remove}, "lease": {opRenewLease, lease}, "report": {opReport, report}} {
		_, answers[name] = s.peers.call(ctx, leader.cfg.Addr, q.op, q.payload)
	}
	return answers
}

// AddNonvoter makes the leader take s into the configuration, without a vote.
func AddNonvoter(leader, s *Store) error {
	return leader.raft.AddNonvoter(s.id, raft.ServerAddress(s.cfg.Addr), 0, s.cfg.Timing.RPC).Error()
}

// IsIn returns an error unless a node is in the latest configuration that s knows.
func IsIn(s *Store, node string) error {
	if nodes := Configuration(s); !slices.Contains(nodes, node) {
		return fmt.Errorf("the configuration is %v", nodes)
	}
	return nil
}
