package raftstore

import (
	"errors"
	"fmt"
	"slices"

	"github.com/hashicorp/raft"
)

// Raft believes what the header of a message says of its sender. Here it is compared with the
// host at the other end of the connection, and with what that host may say.

// errMayNot: a host that has sent a message must not say that.
var errMayNot = errors.New("the sender must not say that")

// judgeMessage returns why a message of a peer must not reach the local Raft, and notes what
// follows from it. The peer is a node ID, "" if peers are believed who they are.
func (s *Store) judgeMessage(peer string, message any) error {
	with, ok := message.(raft.WithRPCHeader)
	if !ok {
		return fmt.Errorf("%w: a message of type %T", errMayNot, message)
	}
	header := with.GetRPCHeader()
	sender := raft.ServerID(header.ID)
	if peer != "" && nodeOf(sender) != peer {
		return fmt.Errorf("%w: host %q speaks for the replica %q", errMayNot, peer, sender)
	}
	servers, err := s.servers()
	if err != nil {
		return err
	}
	switch m := message.(type) {
	case *raft.RequestVoteRequest, *raft.RequestPreVoteRequest:
		if err := namesOwnAddress(sender, string(header.Addr), servers); err != nil {
			return err
		}
		if s.doubtsOwnVote() {
			return errAbstains
		}
		return nil // Raft looks whether the sender is in the configuration
	case *raft.TimeoutNowRequest:
		if s.doubtsOwnVote() {
			return errAbstains
		}
		if _, leader := s.raft.LeaderWithID(); leader != sender {
			return fmt.Errorf("%w: replica %q, which does not lead, hands over", errMayNot, sender)
		}
		return nil
	case *raft.AppendEntriesRequest:
		if err := s.mayLead(sender, servers); err != nil || len(m.Entries) == 0 || s.isBelieved(sender) {
			return err
		}
		return errors.Join(s.noteFed(m.Entries[len(m.Entries)-1].Index, nodeOf(sender)), s.noteFedConfigurations(m.Entries))
	case *raft.InstallSnapshotRequest:
		if err := s.mayLead(sender, servers); err != nil || s.isBelieved(sender) {
			return err
		}
		if err := checkConfiguration(m.Configuration); err != nil {
			return err
		}
		return errors.Join(s.noteFedSnapshot(m.LastLogIndex, nodeOf(sender)), s.doubtVote(m.ConfigurationIndex, raft.DecodeConfiguration(m.Configuration).Servers))
	default:
		return fmt.Errorf("%w: a message of type %T", errMayNot, message)
	}
}

// namesOwnAddress returns why a replica must not ask for a vote, which Raft notes as given to
// an address: it is that of another one. Of a leader it is not asked. In the configuration
// of a replica that was away, its address may be that of a host whose place it has taken.
func namesOwnAddress(sender raft.ServerID, addr string, servers []raft.Server) error {
	for _, srv := range servers {
		if string(srv.Address) == addr && srv.ID != sender {
			return fmt.Errorf("%w: replica %q names the address of %q", errMayNot, sender, srv.ID)
		}
	}
	return nil
}

// mayLead returns why a replica cannot be the leader: it does not vote. A replica whose
// configuration is old asks for the voters, see rejoinLoop, and believes the answer as far as
// it believes a feed. One that cannot ask takes what comes, and so does one below
// FollowersLevel, since it is in the configuration as long as it is a member.
func (s *Store) mayLead(sender raft.ServerID, servers []raft.Server) error {
	votes := func(srv raft.Server) bool { return srv.ID == sender && srv.Suffrage == raft.Voter }
	asks := s.cfg.Timing.Rejoin > 0 && s.cfg.Members != nil && s.followersAllowed()
	if !asks || len(servers) == 0 || slices.ContainsFunc(servers, votes) || s.feed.names(nodeOf(sender)) || s.isVouchedFor(nodeOf(sender)) {
		return nil
	}
	if _, leader := s.raft.LeaderWithID(); leader == sender {
		return nil // it has just given up its vote
	}
	select {
	case s.stranger <- struct{}{}:
	default:
	}
	return fmt.Errorf("%w: replica %q, which does not vote, leads", errMayNot, sender)
}

// isBelieved reports whether what a leader sends need not be confirmed: it is one of the
// voters that this replica believes.
func (s *Store) isBelieved(sender raft.ServerID) bool {
	if !s.followersAllowed() {
		return true
	}
	believed := s.believedVoters()
	return len(believed) == 0 || slices.Contains(believed, nodeOf(sender))
}
