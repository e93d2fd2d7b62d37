package raftstore

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// keptVoterSets is how many sets of voters a replica remembers. It is asked for those at
// recent log indexes only.
const keptVoterSets = 64

// voterLog holds who voted at recent log indexes, as the applied log says. Raft itself
// tells only the latest configuration, which may not be committed.
type voterLog struct {
	mu   sync.Mutex
	sets []voterSet // oldest first
}

// voterSet is the node IDs of the voters from a log index on, sorted.
type voterSet struct {
	index  uint64
	voters []string
}

// votersOf returns the sorted node IDs of those servers that vote.
func votersOf(servers []raft.Server) []string {
	var voters []string
	for _, srv := range servers {
		if srv.Suffrage == raft.Voter {
			voters = append(voters, nodeOf(srv.ID))
		}
	}
	slices.Sort(voters)
	return slices.Compact(voters)
}

// add notes a configuration that was applied.
func (l *voterLog) add(set voterSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sets) == keptVoterSets {
		l.sets = append(l.sets[:0], l.sets[1:]...)
	}
	l.sets = append(l.sets, set)
}

// reset forgets what came before a snapshot, and notes the snapshot's configuration.
func (l *voterLog) reset(set voterSet) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sets = append(l.sets[:0], set)
}

// at returns who voted at a log index; nobody if that is not known any more.
func (l *voterLog) at(index uint64) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, set := range slices.Backward(l.sets) {
		if set.index <= index {
			return set.voters
		}
	}
	return nil
}

// newest returns who votes now.
func (l *voterLog) newest() voterSet {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.sets) == 0 {
		return voterSet{}
	}
	return l.sets[len(l.sets)-1]
}

// configured notes a configuration that this replica has applied.
func (s *Store) configured(index uint64, servers []raft.Server) {
	set := voterSet{index, votersOf(servers)}
	s.voterLog.add(set)
	s.takeVoters(set)
}

// restored notes the configuration of the snapshot that this replica has restored, whose state
// ends at a log index.
func (s *Store) restored(index uint64) {
	list, err := s.disk.listSnapshots()
	if err != nil {
		s.log.Warn("the configuration of a snapshot cannot be read", "err", err)
		return
	}
	meta := snapshotOf(list, index)
	if meta == nil {
		s.log.Warn("no snapshot says who votes", "index", index)
		return
	}
	set := voterSet{meta.ConfigurationIndex, votersOf(meta.Configuration.Servers)}
	s.voterLog.reset(set)
	s.takeVoters(set)
}

// snapshotOf returns the description of the snapshot whose state ends at a log index; nil if
// there is none. The snapshot that a recovery makes goes on to the end of the log, whose last
// entries may not concern the state, such as the first one of a leader: its index is higher.
func snapshotOf(list []*raft.SnapshotMeta, index uint64) (found *raft.SnapshotMeta) {
	for _, meta := range list { // the newest first: of two at one index, the earlier was recovered from
		if meta.Index >= index && (found == nil || meta.Index < found.Index) {
			found = meta
		}
	}
	return found
}

// learnPause is what each host of the mesh adds to the time after which a follower asks about
// new voters: in a large mesh, their statements come by the feeds before.
const learnPause = 20 * time.Millisecond

// takeVoters takes the voters of a configuration. If a feed has named them, this replica soon
// asks those that it believes and the new ones: once the former are gone, nobody could confirm
// it.
func (s *Store) takeVoters(set voterSet) {
	if !s.trust.configured(set, s.cfg.NodeID) || s.cfg.Signer == nil {
		return
	}
	s.tasks.start(func() {
		timer := time.NewTimer(rand.N(s.learnTime()))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.closing:
			return
		}
		if slices.Equal(s.believedVoters(), set.voters) {
			return
		}
		select {
		case s.trust.wanted <- struct{}{}:
		default:
		}
	})
}

// learnTime is within which time followers ask about new voters.
func (s *Store) learnTime() time.Duration { return learnPause * time.Duration(1+len(s.members())) }
