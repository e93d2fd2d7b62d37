package raftstore

import (
	"encoding/json"
	"fmt"

	"github.com/hashicorp/raft"
)

// joinedAnswer is the leader's answer to a replica that asks to be added: the incarnation
// of the group, and whether it follows.
type joinedAnswer struct {
	group  incarnation
	Follow bool `json:"follow"`
	// Index is the leader's commit index: in the log up to it, the replica is in no
	// configuration any more.
	Index  uint64  `json:"index"`
	Voters []offer `json:"voters"`
}

// decodeJoined reads the answer to a join. Leaders of a group in which nobody follows send
// the incarnation alone.
func decodeJoined(b []byte) (joinedAnswer, error) {
	var a joinedAnswer
	head := b[:min(len(b), len(a.group))]
	var err error
	if a.group, err = parseIncarnation(head); err != nil || len(b) == len(head) {
		return a, err
	}
	if err := json.Unmarshal(b[len(head):], &a); err != nil || len(a.Voters) > maxOffers {
		return joinedAnswer{}, fmt.Errorf("answer to a join: %w", errDecode)
	}
	return a, nil
}

// joined answers a replica that has asked to be added to the group. If it follows, its
// sources are the voters among servers; nil means that it is in the configuration.
func (s *Store) joined(id raft.ServerID, addr string, servers []raft.Server) ([]byte, error) {
	own := s.group.current()
	if servers == nil {
		return own[:], nil
	}
	s.followers.keepFollower(id, addr, s.followers.awake.now())
	members := s.members()
	a := joinedAnswer{Follow: true, Index: s.raft.CommitIndex()}
	for _, srv := range servers {
		if srv.Suffrage == raft.Voter && len(a.Voters) < maxOffers {
			node := nodeOf(srv.ID)
			a.Voters = append(a.Voters, offer{Node: node, Addr: string(srv.Address), Zone: members[node].Zone, Room: 1})
		}
	}
	b, err := json.Marshal(a)
	if err != nil {
		return nil, fmt.Errorf("answer a join: %w", err)
	}
	return append(own[:], b...), nil
}

// followersAllowed reports whether replicas may be outside the Raft configuration.
func (s *Store) followersAllowed() bool { return s.FeatureLevel() >= FollowersLevel }

// nodesOf returns the nodes that offers name.
func nodesOf(offers []offer) []string {
	nodes := make([]string, 0, len(offers))
	for _, o := range offers {
		nodes = append(nodes, o.Node)
	}
	return nodes
}

// refuseFollowing refuses what only followers ask, before it is decoded, in a group in which
// nobody follows.
func (s *Store) refuseFollowing(op opcode) error {
	switch op {
	case opPull, opPullSnapshot, opReport:
		if !s.followersAllowed() {
			return fmt.Errorf("%w: replicas follow from feature level %d on, and the mesh is at %d", ErrInvalidTxn, FollowersLevel, s.FeatureLevel())
		}
	}
	return nil
}
