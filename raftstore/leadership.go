package raftstore

import (
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// readyPause is how long a new leader that could not become ready waits before it
// tries again.
const readyPause = 20 * time.Millisecond

// broadcast wakes all waiting goroutines. It can be used again and again.
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

// tenure is a leader in one term, as this replica knows it.
type tenure struct {
	id   raft.ServerID // empty if no leader is known
	addr string
	term uint64
	over chan struct{} // closed when another leader or a later term is known
}

// tenures keeps the newest tenure.
type tenures struct {
	mu  sync.Mutex
	now tenure
}

// leader returns the leader known now, or a zero tenure. A tenure does not end when
// no leader is known for a moment, because the old leader may still answer. It ends
// when another leader or term is known, so that no request waits for a leader that
// has been replaced.
func (s *Store) leader() tenure {
	s.tenures.mu.Lock()
	defer s.tenures.mu.Unlock()
	now := &s.tenures.now
	addr, id := s.raft.LeaderWithID()
	// Raft sets a term before the leader of that term, so this term is not earlier
	// than the leader's.
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

// observeLeader wakes waiting requests whenever Raft reports a change of the leader.
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
			s.leader() // ends the calls to the previous leader
		case <-s.closing:
			return
		}
	}
}

// leadLoop does the duties of a leader while this replica leads: it first makes
// sure that an entry of its own term is committed and applied, and then runs
// autopilot.
func (s *Store) leadLoop(notify <-chan bool) {
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
		if again = nil; !s.becomeReady() {
			again = time.After(readyPause)
		}
	}
}

// becomeReady makes a new leader ready for linearizable reads. It returns false if
// that failed and this replica still leads. A barrier can also fail because the
// disk is slow, or because of a leadership transfer that may itself fail.
func (s *Store) becomeReady() bool {
	term := s.raft.CurrentTerm()
	if err := s.raft.Barrier(s.cfg.Timing.RPC).Error(); err != nil {
		s.log.Warn("new leader could not commit in its term", "term", term, "err", err)
		return !s.IsLeader()
	}
	if s.raft.CurrentTerm() != term {
		return true // it leads another term now; Raft is about to notify leadLoop of it
	}
	s.readyTerm.Store(term)
	s.leaderChange.notify()
	s.log.Info("leading the store", "term", term)
	s.autopilot.start()
	return true
}

// termReady returns the term that this replica leads, once it has applied all that earlier
// leaders have committed. What a leader judges by the state, it judges after that.
func (s *Store) termReady() (uint64, error) {
	term := s.readyTerm.Load()
	if term == 0 || !s.leads(term) {
		return 0, fmt.Errorf("%w: not ready in this term", errNotLeader)
	}
	return term, nil
}

// leads reports whether this replica leads in term.
func (s *Store) leads(term uint64) bool { return s.IsLeader() && s.raft.CurrentTerm() == term }

// IsLeader reports whether this replica believes that it leads. Another replica may
// already have been elected.
func (s *Store) IsLeader() bool { return s.raft.State() == raft.Leader }

// Leader returns the node ID and the address of the leader that this replica knows,
// or empty strings.
func (s *Store) Leader() (id, addr string) {
	a, i := s.raft.LeaderWithID()
	return nodeOf(i), string(a)
}

// snapshotLoop takes a snapshot whenever enough log has been applied since the last
// one. Raft's own trigger only counts entries, whose size varies a thousandfold. It also
// drops history that has become old.
func (s *Store) snapshotLoop() {
	tick := time.NewTicker(s.cfg.Timing.SnapshotCheck)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.snapshotIfDue()
			s.history.dropOld(time.Now())
		case <-s.closing:
			return
		}
	}
}
