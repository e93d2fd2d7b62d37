package raftstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// Raft obeys a configuration as soon as it is in the log. A feeder that names a follower as
// a voter could so make it the leader of a group that does not exist, or the follower of a
// leader that it has made up. But a follower that voted before it was away must take the
// configurations of that time, since they are in the log. So a fed configuration in which
// this replica votes is doubted: until a later one takes the vote away, or the voters have
// signed it, the replica goes on following, takes no part in elections, and believes
// nothing that reaches it otherwise before Confirm has returned.

var (
	// errAbstains: this replica does not know yet whether it votes.
	errAbstains = errors.New("this replica takes no part in elections: the voters have not confirmed that it votes")
	// errOnlyVoter: nobody could feed the only voter of a group, since nothing is committed
	// without it.
	errOnlyVoter = errors.New("it names the replica that it feeds as the only voter")
)

// noteFedConfigurations must be called before entries that came through a feed are handed to
// the local Raft.
func (s *Store) noteFedConfigurations(entries []*raft.Log) error {
	for _, l := range entries {
		if l.Type != raft.LogConfiguration {
			continue
		}
		if err := s.doubtVote(l.Index, raft.DecodeConfiguration(l.Data).Servers); err != nil {
			return err
		}
	}
	return nil
}

// doubtVote must be called before a configuration that came through a feed is handed to the
// local Raft. If this replica votes in it, it is doubted from now on.
func (s *Store) doubtVote(index uint64, servers []raft.Server) error {
	isOwn := func(srv raft.Server) bool { return srv.ID == s.id && srv.Suffrage == raft.Voter }
	if !slices.ContainsFunc(servers, isOwn) {
		return nil
	}
	if len(votersOf(servers)) == 1 {
		return fmt.Errorf("configuration at log index %d: %w", index, errOnlyVoter)
	}
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.change(func(r *trustRecord) { r.Group, r.Doubted = s.group.current(), index })
}

// doubtsOwnVote reports whether the newest configuration, in which this replica votes, came
// through a feed and is not confirmed.
func (s *Store) doubtsOwnVote() bool {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.record.Doubted > 0
}

// reviewDoubt takes a configuration that was applied into account. One without a vote of this
// replica ends the doubt. Another one is doubted too: it may come from a leader that the
// feeder has made up. The caller holds t.mu.
func (t *trust) reviewDoubt(set voterSet, self string) {
	if t.record.Doubted == 0 || set.index <= t.record.Doubted {
		return
	}
	doubted := set.index
	if !slices.Contains(set.voters, self) {
		doubted = 0
	}
	t.fed = max(t.fed, set.index)
	if err := t.change(func(r *trustRecord) { r.Doubted = doubted }); err != nil {
		t.problem = err
	}
}

// settleDoubt ends the doubt if the doubted configuration is not in the log after all, or if
// the voters have signed that those vote whom it names. What was applied meanwhile counts as
// fed.
func (s *Store) settleDoubt(v agreement) error {
	applied := s.applied.get() // before the configuration is read, which may be a newer one
	newest := s.voterLog.newest()
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.record.Doubted == 0 || applied < t.record.Doubted {
		return nil
	}
	if slices.Contains(newest.voters, s.cfg.NodeID) && (v.index < newest.index || !slices.Equal(v.voters, newest.voters)) {
		return nil
	}
	t.fed = max(t.fed, applied)
	return t.change(func(r *trustRecord) { r.Doubted = 0 })
}

// votersGone returns why nobody can confirm what this replica was fed: most of the voters
// that it knows are no members any more. It is nil if all is confirmed, and while this
// replica is too far behind to know the members.
func (s *Store) votersGone() error {
	if s.cfg.Members == nil || !s.isMember(s.cfg.NodeID) || s.trust.confirms(s.applied.get()) {
		return nil
	}
	known := s.believedVoters()
	left := slices.DeleteFunc(slices.Clone(known), func(node string) bool { return !s.isMember(node) })
	if len(known) == 0 || isMajority(left, known) {
		return nil
	}
	return s.cfg.withRemedy(fmt.Errorf("%w: of %v only %v are left, so nobody can confirm its state", ErrVotersGone, known, left))
}
