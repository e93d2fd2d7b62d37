package raftstore

import (
	"fmt"
	"slices"
)

// maxElectionIndex bounds the log index of voters that somebody vouches for: far more than a log
// reaches. Behind a higher one no voters would ever be believed.
const maxElectionIndex = 1 << 48

// Electorate is who votes in a group from a log index on.
type Electorate struct {
	// Group is the incarnation of the group: a recovery makes another one.
	Group string
	// Index is the log index of the configuration, and Voters the node IDs of its voters, sorted.
	Index  uint64
	Voters []string
}

// Electorate returns who votes by the newest configuration that this replica has applied. It
// has no voters as long as the replica has none. It does not block.
func (s *Store) Electorate() Electorate {
	newest := s.voterLog.newest()
	return Electorate{Group: s.group.current().String(), Index: newest.index, Voters: slices.Clone(newest.voters)}
}

// BelieveVoters makes this replica believe what a majority of some voters signs, if they vote
// later than those whom it believes. The caller vouches for them: a replica that was off may
// know only voters that are gone, and then nobody else can tell it who votes. Those of another
// group have no effect: a replica of a group that was replaced stops by itself. It returns ErrInvalidTxn for
// more voters, or a later index, than any group has, and an error if it cannot be stored.
func (s *Store) BelieveVoters(e Electorate) error {
	if len(e.Voters) > maxStatedVoters || e.Index > maxElectionIndex {
		return fmt.Errorf("%w: %d voters from log index %d on, at most %d and %d are believed", ErrInvalidTxn, len(e.Voters), e.Index, maxStatedVoters, uint64(maxElectionIndex))
	}
	if e.Group != s.group.current().String() || len(e.Voters) == 0 {
		return nil
	}
	voters := slices.Compact(slices.Sorted(slices.Values(e.Voters)))
	own := s.voterLog.newest().index
	t := s.trust
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.record.VotersAt
	if len(t.record.Voters) == 0 {
		known = own
	}
	if e.Index <= known {
		return nil
	}
	if err := t.change(func(r *trustRecord) { r.Group, r.Voters, r.VotersAt = s.group.current(), voters, e.Index }); err != nil {
		return err
	}
	t.problem = nil
	t.changed.notify()
	return nil
}

// isVouchedFor reports whether a replica votes by what this one believes, and this one's
// configuration is older than that.
func (s *Store) isVouchedFor(node string) bool {
	own := s.voterLog.newest().index
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.record.VotersAt > own && slices.Contains(s.trust.record.Voters, node)
}
