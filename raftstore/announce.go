package raftstore

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Raft sends the commit index to followers together with the next entries, or
// after CommitTimeout if there are none. In a quiet group this delays every watch,
// and every commit made at a follower, by CommitTimeout. A short CommitTimeout
// would cost permanent traffic to every replica. So the leader announces its
// commit index over this package's RPC. Each replica then passes its local Raft the
// AppendEntries message that the leader's Raft would send later: the same term and
// leader, no entries, and the committed entry both as the previous entry (which
// Raft checks against the local log) and as the commit index.

const (
	// announcePause is the least time between announcements: under load the
	// following entries carry the commit index just as fast.
	announcePause = time.Millisecond
	// announceTries is how often a replica checks whether the announced entry has
	// arrived in its log, before it drops the announcement and waits for Raft.
	announceTries = 20
)

// announcement says that the entry at index, which has term entryTerm, is
// committed.
type announcement struct {
	term      uint64 // the leader's current term
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

// latest holds the newest message of a kind and wakes the goroutine that handles it.
type latest[T any] struct {
	mu      sync.Mutex
	message T
	wake    chan struct{} // holds one token
}

func newLatest[T any]() *latest[T] { return &latest[T]{wake: make(chan struct{}, 1)} }

func (l *latest[T]) put(message T) {
	l.mu.Lock()
	l.message = message
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *latest[T]) newest() T {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.message
}

// takeNewest returns the newest message and forgets it.
func (l *latest[T]) takeNewest() T {
	l.mu.Lock()
	defer l.mu.Unlock()
	var none T
	message := l.message
	l.message = none
	return message
}

// noteApplied is called when the state machine has applied entries.
func (s *Store) noteApplied(a announcement) {
	s.toAnnounce.put(a)
	s.source.news.notify()
}

// announceCommits sends the other replicas what this replica has applied, while it
// leads.
func (s *Store) announceCommits() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-s.toAnnounce.wake:
		case <-s.closing:
			return
		}
		a := s.toAnnounce.newest()
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

// deliverAnnouncements passes the leader's announcements to the local Raft.
func (s *Store) deliverAnnouncements() {
	for {
		select {
		case <-s.announced.wake:
		case <-s.closing:
			return
		}
		for range announceTries {
			a := s.announced.newest()
			if a.index <= s.applied.get() || a.term != s.raft.CurrentTerm() || s.raft.State() != raft.Follower {
				break
			}
			if s.raft.LastIndex() >= a.index {
				s.deliverToRaft(a)
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

// deliverToRaft passes the local Raft the message that a describes.
func (s *Store) deliverToRaft(a announcement) {
	addr, id := s.raft.LeaderWithID()
	if id == "" {
		return
	}
	// Whether Raft takes it does not matter: the same will come from the leader.
	_ = s.passToRaft(raft.RPC{Command: &raft.AppendEntriesRequest{
		RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: []byte(addr),
		},
		Term: a.term, PrevLogEntry: a.index, PrevLogTerm: a.entryTerm, LeaderCommitIndex: a.index,
	}})
}
