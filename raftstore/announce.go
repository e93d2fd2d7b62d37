package raftstore

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft tells followers how far the log is committed with the next entries, or
// when CommitTimeout has passed without any. On a quiet group that delays every
// watch, and every commit made at a follower, by that timeout; making it short
// costs traffic to every replica for ever. So the leader announces what it has
// committed to the replicas over this package's RPC, and each of them gives its
// raft the message that the leader's would have sent anyway: the same term and
// leader, no entries, and the committed entry both as the previous one, which is
// checked against the local log, and as the commit index.

const (
	// announcePause is the least time between announcements: under load the
	// following entries carry the commit index just as fast.
	announcePause = time.Millisecond
	// announceTries is how often a replica looks whether the entry announced has
	// arrived, before it leaves the matter to raft.
	announceTries = 20
)

// announcement says that the entry at index, of entryTerm, is committed.
type announcement struct {
	term      uint64 // the leader's
	index     uint64
	entryTerm uint64
}

func (a announcement) encode() []byte {
	b := binary.LittleEndian.AppendUint64(make([]byte, 0, 24), a.term)
	b = binary.LittleEndian.AppendUint64(b, a.index)
	return binary.LittleEndian.AppendUint64(b, a.entryTerm)
}

func decodeAnnouncement(b []byte) (announcement, error) {
	if len(b) != 24 {
		return announcement{}, fmt.Errorf("%w: announcement: %w", ErrInvalidTxn, errDecode)
	}
	r := &reader{b: b}
	return announcement{r.uint64(), r.uint64(), r.uint64()}, nil
}

// latest holds the newest announcement and wakes whoever takes it.
type latest struct {
	mu   sync.Mutex
	a    announcement
	wake chan struct{} // holds one token
}

func newLatest() *latest { return &latest{wake: make(chan struct{}, 1)} }

func (l *latest) put(a announcement) {
	l.mu.Lock()
	l.a = a
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *latest) take() announcement {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.a
}

// announce tells the other replicas what was applied here, while this one leads.
func (s *Store) announce() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-s.toAnnounce.wake:
		case <-s.closing:
			return
		}
		a := s.toAnnounce.take()
		if a.term = s.raft.CurrentTerm(); !s.IsLeader() {
			continue
		}
		servers, err := s.servers()
		if err != nil {
			continue
		}
		payload := a.encode()
		for _, srv := range servers {
			if srv.ID != s.id {
				s.peers.notify(string(srv.Address), opCommitted, payload)
			}
		}
		pause.Reset(announcePause)
		select {
		case <-pause.C:
		case <-s.closing:
			return
		}
	}
}

// heed brings announcements of the leader to the local raft.
func (s *Store) heed() {
	for {
		select {
		case <-s.announced.wake:
		case <-s.closing:
			return
		}
		for range announceTries {
			a := s.announced.take()
			if a.index <= s.applied.get() || a.term != s.raft.CurrentTerm() || s.raft.State() != raft.Follower {
				break
			}
			if s.raft.LastIndex() >= a.index {
				s.deliver(a)
				break
			}
			select {
			case <-time.After(announcePause):
			case <-s.closing:
				return
			}
		}
	}
}

// deliver gives raft the leader's message.
func (s *Store) deliver(a announcement) {
	addr, id := s.raft.LeaderWithID()
	if id == "" {
		return
	}
	answer := make(chan raft.RPCResponse, 1)
	rpc := raft.RPC{RespChan: answer, Command: &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr),
		},
		Term: a.term, PrevLogEntry: a.index, PrevLogTerm: a.entryTerm, LeaderCommitIndex: a.index,
	}}
	select {
	case s.transport.rpcs <- rpc:
	case <-s.closing:
		return
	}
	select {
	case <-answer:
	case <-s.closing:
	case <-s.stopped:
	}
}
