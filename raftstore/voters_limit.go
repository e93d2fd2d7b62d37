package raftstore

import (
	"slices"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// VoterLimit says which nodes may vote. The zero value lets every node.
type VoterLimit struct {
	// Nodes are the only nodes that may vote; none stands for all of them.
	Nodes []string
	// Exclude are nodes that may not vote, whatever Nodes says.
	Exclude []string
}

// Allows reports whether a node may vote.
func (l VoterLimit) Allows(node string) bool {
	return (len(l.Nodes) == 0 || slices.Contains(l.Nodes, node)) && !slices.Contains(l.Exclude, node)
}

// voters returns how many of the replicas in list should vote, at most limit. Nodes that are
// named count although the group does not have them yet: others that vote keep their places until
// then. Where nobody has such a place, there is none: two voters would be worse than one.
// Where nobody in the group may vote, the limit cannot be followed, and nothing changes.
func (l VoterLimit) voters(list []candidate, limit int) int {
	allowed, keeping := 0, 0 // keeping: may not vote, and votes
	for _, c := range list {
		switch {
		case !c.barred:
			allowed++
		case c.voter:
			keeping++
		}
	}
	switch {
	case allowed == 0:
		return wantVoters(len(list), limit)
	case len(l.Nodes) == 0:
		return wantVoters(allowed, limit)
	}
	named := slices.DeleteFunc(slices.Clone(l.Nodes), func(node string) bool { return !l.Allows(node) })
	slices.Sort(named)
	return wantVoters(min(len(slices.Compact(named)), allowed+keeping), limit)
}

// voterLimit returns which nodes may vote now.
func (s *Store) voterLimit() VoterLimit {
	if s.cfg.Voters.Limit == nil {
		return VoterLimit{}
	}
	return s.cfg.Voters.Limit(s)
}

// passOn makes a leader that should not vote pass the leadership on to a voter that should,
// and keep its vote until that has happened.
func passOn(changes *autopilot.RaftChanges, s *autopilot.State, chosen []string) {
	if slices.Contains(chosen, string(s.Leader)) {
		return
	}
	changes.Demotions = slices.DeleteFunc(changes.Demotions, func(id raft.ServerID) bool { return id == s.Leader })
	for _, id := range chosen { // sorted: each round names the same one
		if srv := s.Servers[raft.ServerID(id)]; srv != nil && srv.HasVotingRights() && srv.Health.Healthy {
			changes.Leader = raft.ServerID(id)
			return
		}
	}
}
