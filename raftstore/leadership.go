package raftstore

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// officePause is how long a new leader that could not get ready waits before it
// tries again.
const officePause = 20 * time.Millisecond

// broadcast wakes everyone who waits, as often as wanted.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// wait returns a channel that is closed at the next notify.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) notify() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// tenure is a leader and the time for which it is known as such.
type tenure struct {
	id   raft.ServerID // empty if no leader is known
	addr string
	term uint64
	over chan struct{} // closed when another leader or term has taken its place
}

// tenures keeps the newest tenure.
type tenures struct {
	mu  sync.Mutex
	now tenure
}

// leader returns the leader known now. That none is known for a moment does not
// end a tenure, for the old leader may still answer; that a later one is known
// does, so that nobody waits for one that has lost its power.
func (s *Store) leader() tenure {
	s.tenures.mu.Lock()
	defer s.tenures.mu.Unlock()
	now := &s.tenures.now
	addr, id := s.raft.LeaderWithID()
	// A term is set before its leader, so this is not an earlier one.
	term := s.raft.CurrentTerm()
	if id == "" {
		return tenure{}
	}
	if now.id != id || now.addr != string(addr) || now.term != term {
		if now.over != nil {
			close(now.over)
		}
		*now = tenure{id: id, addr: string(addr), term: term, over: make(chan struct{})}
	}
	return *now
}

// observeLeader wakes waiting requests whenever this replica learns of a leader.
func (s *Store) observeLeader() {
	ch := make(chan raft.Observation, 16)
	o := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	s.raft.RegisterObserver(o)
	defer s.raft.DeregisterObserver(o)
	for {
		select {
		case <-ch:
			s.leaderChange.notify()
			s.leader() // ends the calls to the one before
		case <-s.closing:
			return
		}
	}
}

// lead does a leader's duties while this replica leads: make sure that an entry
// of its own term is committed and applied, then look after the voters.
func (s *Store) lead(notify <-chan bool) {
	defer s.autopilot.stop()
	var again <-chan time.Time
	for {
		select {
		case leading := <-notify:
			again = nil
			if !leading {
				s.readyTerm.Store(0)
				s.autopilot.stop()
				continue
			}
		case <-again:
		case <-s.closing:
			return
		}
		if again = nil; !s.takeOffice() {
			again = time.After(officePause)
		}
	}
}

// takeOffice makes a new leader ready for linearizable reads. It returns false
// if it could not and still leads: a barrier fails also because the disk is slow
// or because leadership is about to be handed over, which may come to nothing.
func (s *Store) takeOffice() bool {
	term := s.raft.CurrentTerm()
	if err := s.raft.Barrier(s.cfg.Timing.RPC).Error(); err != nil {
		s.log.Warn("new leader could not commit in its term", "term", term, "err", err)
		return !s.IsLeader()
	}
	if s.raft.CurrentTerm() != term {
		return true // that it leads another term is about to be told
	}
	s.readyTerm.Store(term)
	s.leaderChange.notify()
	s.log.Info("leading the store", "term", term)
	s.autopilot.start()
	return true
}

// leads tells whether this replica leads a term.
func (s *Store) leads(term uint64) bool { return s.IsLeader() && s.raft.CurrentTerm() == term }

// IsLeader tells whether this replica believes to lead. Another one may already.
func (s *Store) IsLeader() bool { return s.raft.State() == raft.Leader }

// Leader returns the ID and address of the replica believed to lead, or empty
// strings.
func (s *Store) Leader() (id, addr string) {
	a, i := s.raft.LeaderWithID()
	return nodeOf(i), string(a)
}

// snapshotLoop takes a snapshot when enough log has been applied since the last.
// Raft's own trigger counts entries, whose size varies a thousandfold.
func (s *Store) snapshotLoop() {
	tick := time.NewTicker(s.cfg.Timing.SnapshotCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.snapshotIfDue()
		case <-s.closing:
			return
		}
	}
}
