package raftstore

import (
	"encoding/json"
	"errors"
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

// joined answers a replica that has asked to be added to the group. The voters among servers
// are its sources, if it follows, or those of whom one leads.
func (s *Store) joined(servers []raft.Server, follows bool) ([]byte, error) {
	own := s.group.current()
	if !s.followersAllowed() {
		return own[:], nil
	}
	members := s.members()
	a := joinedAnswer{Follow: follows, Index: s.raft.CommitIndex()}
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

// joinDomain begins what a host signs that asks for its replica to be added.
const joinDomain = "virtmesh join\x00"

// signedPart returns what is signed of a request to be added.
func (r replica) signedPart() []byte {
	return append(appendString(appendString([]byte(joinDomain), r.ID), r.Addr), r.Group[:]...)
}

// requestToJoin returns this replica's request to be added to a group.
func (s *Store) requestToJoin() ([]byte, error) {
	r := replica{ID: string(s.id), Addr: s.cfg.Addr, Group: s.group.current(), Version: s.cfg.Version, Levels: s.levels.known}
	if s.cfg.Signer != nil {
		var err error
		if r.Proof, err = s.cfg.Signer.Sign(r.signedPart()); err != nil {
			return nil, fmt.Errorf("sign the request to join: %w", err)
		}
	}
	return json.Marshal(r)
}

// checkProof refuses a request to add a replica of another host than the one that asks, unless
// that host has signed it. Only where replicas follow does every version sign.
func (s *Store) checkProof(caller string, r replica) error {
	node := nodeOf(raft.ServerID(r.ID))
	if caller == "" || caller == node || !s.followersAllowed() || s.cfg.Signer == nil || !s.isMember(node) {
		return nil // addReplica refuses who is no member, and what cannot be confirmed
	}
	signer, err := s.cfg.Signer.Verify(r.signedPart(), r.Proof)
	if err != nil || signer != node {
		// The leader may not have heard of a new host, or certificate, yet.
		return fmt.Errorf("%w: host %q asks to add the replica %q, and %w", errNotLeader, caller, r.ID, errors.Join(fmt.Errorf("%q has signed that", signer), err))
	}
	return nil
}
