package raftstore

import (
	"bytes"
	"context"
	"encoding/json"
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

// FeedWithVoters hands s, as a source named by that does, what it lacks of the log of another
// replica, and then a configuration in which s and the other given replicas vote. With
// nobody given, it hands s the log alone.
func FeedWithVoters(s, from *Store, by string, voters ...*Store) error {
	a := &pullAnswer{Path: []string{by}, Leader: feedLeader{Age: -1}}
	last := from.applied.get()
	term := from.raft.CurrentTerm()
	for i := s.committedIndex() + 1; i <= last; i++ {
		next := new(raft.Log)
		if err := from.disk.logs.GetLog(i, next); err != nil {
			return err
		}
		a.entries = append(a.entries, next)
	}
	var forged raft.Configuration
	for _, v := range voters {
		forged.Servers = append(forged.Servers, raft.Server{Suffrage: raft.Voter, ID: v.id, Address: raft.ServerAddress(v.cfg.Addr)})
	}
	if len(voters) > 0 {
		last = max(last, s.committedIndex()) + 1
		a.entries = append(a.entries, &raft.Log{Index: last, Term: term, Type: raft.LogConfiguration, Data: raft.EncodeConfiguration(forged)})
	}
	a.Commit = last
	b, err := a.encode()
	if err != nil {
		return err
	}
	if a, err = decodePullAnswer(b, s.committedIndex()); err != nil {
		return err
	}
	if err := s.passEntries(by, a); err != nil {
		return err
	}
	return s.applied.wait(s.base, last)
}

// DoubtsVote reports whether s votes by the word of a feeder alone.
func DoubtsVote(s *Store) bool { return s.doubtsOwnVote() }

// BelieveVote makes s believe whatever it was fed on its own vote, as a hostile replica does.
func BelieveVote(s *Store) error {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.change(func(r *trustRecord) { r.Doubted = 0 })
}

// AddVoter makes the leader add s to the configuration, with a vote.
func AddVoter(leader, s *Store) error {
	return leader.raft.AddVoter(s.id, raft.ServerAddress(s.cfg.Addr), 0, s.cfg.Timing.RPC).Error()
}

// BelieveVoters makes s, which knows no voters, believe those.
func BelieveVoters(s, voter *Store, voters ...string) error {
	if err := s.group.adopt(voter.group.current()); err != nil {
		return err
	}
	return s.introduceVoters(voters)
}

// AskForStatement asks s for a statement on its state, as another replica does.
func AskForStatement(ctx context.Context, s *Store) error {
	_, err := s.serveStatement(ctx, encodeQuestion(s.applied.get()))
	return err
}

// SpeakFor sends another replica what followers and joiners send, in the name of a third one,
// and returns the answers.
func SpeakFor(ctx context.Context, s, to, other *Store) map[string]error {
	pull, _ := encodePull(pullRequest{ID: string(other.id), Addr: s.cfg.Addr, After: s.committedIndex(), Fresh: true})
	snapshot, _ := encodePull(snapshotRequest{ID: string(other.id), Name: "x"})
	join, _ := json.Marshal(replica{ID: string(other.id), Addr: s.cfg.Addr, Group: s.group.current(), Levels: s.levels.known})
	answers := map[string]error{}
	for name, q := range map[string]struct {
		op      opcode
		payload []byte
	}{"pull": {opPull, pull}, "snapshot": {opPullSnapshot, snapshot}, "join": {opJoin, join}} {
		_, answers[name] = s.peers.call(ctx, to.cfg.Addr, q.op, q.payload)
	}
	return answers
}

// OfferBeyond makes s take the newest snapshot of its source as one that ends at a log index
// which the group never reaches, and in which s and other vote.
func OfferBeyond(ctx context.Context, s, source, other *Store) error {
	o, err := source.offerSnapshot(0)
	if err != nil {
		return err
	}
	o.Index, o.ConfigurationIndex, o.Servers = 1<<40, 1<<40, nil
	for _, v := range []*Store{s, other} {
		o.Servers = append(o.Servers, raft.Server{Suffrage: raft.Voter, ID: v.id, Address: raft.ServerAddress(v.cfg.Addr)})
	}
	bundle, _ := source.newestStatements(statementsRank{})
	return s.installFedSnapshot(ctx, offer{Node: source.cfg.NodeID, Addr: source.cfg.Addr}, o, bundle)
}

// OfferedTo returns where the snapshot ends that a source would send a follower now, zero if
// it would send none.
func OfferedTo(source, s *Store) uint64 {
	a, err := source.answerPull(&pullRequest{ID: string(s.id), After: s.committedIndex()})
	if err != nil || a.Snapshot == nil {
		return 0
	}
	return a.Snapshot.Index
}
