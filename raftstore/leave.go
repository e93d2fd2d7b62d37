package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// resignedFor is how long a replica that has resigned is not made a voter again: longer than
// leaving takes.
const resignedFor = 2 * time.Minute

// Resign hands over the leadership and the vote of this replica, whose host is about to
// leave the mesh. The replica goes on without a vote, reads, commits and signs, until Leave:
// what the only voter of a group signs is believed only as long as its host is a member, and
// without that nobody could take over from it. So call Resign before the membership ends, and
// Leave after it.
//
// Resign returns once this replica knows that it does not vote. It may be repeated. The last
// replica of a group keeps its vote. Below FollowersLevel Resign hands over only the
// leadership: what is signed does not matter there, and a leader may not know the request.
func (s *Store) Resign(ctx context.Context) error {
	var before []raft.Server
	for n := 0; ; n++ {
		var alone bool
		var err error
		if before, alone, err = s.yieldLeadership(ctx); err != nil {
			return fmt.Errorf("resign: %w", err)
		}
		if alone || !s.followersAllowed() || s.position() != inConfiguration {
			return nil
		}
		if err = s.giveUpVote(ctx, s.cfg.NodeID); err == nil {
			break
		}
		if !errors.Is(err, errLeadsItself) {
			return fmt.Errorf("resign: %w", err)
		}
		if err := s.pauseBeforeRetry(ctx, n, nil); err != nil {
			return fmt.Errorf("resign: %w: %w", errLeadsItself, err)
		}
	}
	for n := 0; s.hasVote(); n++ {
		if err := s.pauseBeforeRetry(ctx, n, nil); err != nil {
			return fmt.Errorf("resign: wait until this replica knows that it does not vote: %w", err)
		}
	}
	// Of two voters, followers believe a change only if both have signed it.
	s.letFollowersLearn(ctx, len(votersOf(before)) < 3 && len(s.members()) > 2)
	return nil
}

// errLeadsItself: a replica that has been elected again must hand over before it gives up its vote.
var errLeadsItself = errors.New("this replica leads again")

// giveUpVote asks the leader to take the vote of a node, which must be this one.
func (s *Store) giveUpVote(ctx context.Context, node string) error {
	payload, err := json.Marshal(replica{ID: node, Resigns: true})
	if err != nil {
		return err
	}
	_, err = s.requestAtLeader(ctx, opRemoveReplica, payload)
	return err
}

// hasVote reports whether this replica votes, by the configurations that it has applied.
func (s *Store) hasVote() bool { return slices.Contains(s.voterLog.newest().voters, s.cfg.NodeID) }

// serveResign takes the vote of a node that resigns. Its replica stays in the configuration for
// now: only from Raft does it learn for certain that others vote.
func (s *Store) serveResign(caller, node string) error {
	if caller != "" && caller != node {
		return fmt.Errorf("%w: host %q asks for the vote of %q", ErrInvalidTxn, caller, node)
	}
	if node == s.cfg.NodeID {
		return errLeadsItself
	}
	servers, err := s.servers()
	if err != nil {
		return err
	}
	for _, srv := range servers {
		if nodeOf(srv.ID) != node {
			continue
		}
		s.autopilot.noteResigned(srv.ID)
		if srv.Suffrage != raft.Voter {
			continue
		}
		s.log.Info("a replica resigns", "id", srv.ID)
		if err := s.raft.DemoteVoter(srv.ID, 0, s.cfg.Timing.RPC).Error(); err != nil {
			return leaderError(err)
		}
	}
	return nil
}

// Leave removes this replica from the group; the caller should then call Close. A
// leader first transfers its leadership. The last replica of a group is not
// removed.
func (s *Store) Leave(ctx context.Context) error {
	_, alone, err := s.yieldLeadership(ctx)
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	if alone {
		return nil
	}
	s.left.Store(true)
	return s.RemoveReplica(ctx, s.cfg.NodeID)
}

// awaitOwnLead returns the configuration once this replica leads, if it is the only voter: then
// nobody else can lead, and only a leader knows who follows and makes another one a voter.
func (s *Store) awaitOwnLead(ctx context.Context) ([]raft.Server, error) {
	for n := 0; ; n++ {
		servers, err := s.servers()
		if err != nil {
			return nil, err
		}
		if s.IsLeader() || !slices.Equal(votersOf(servers), []string{s.cfg.NodeID}) {
			return slices.Clone(servers), nil
		}
		if err := s.pauseBeforeRetry(ctx, n, nil); err != nil {
			return nil, fmt.Errorf("wait until this replica, the only voter, leads: %w", err)
		}
	}
}

// yieldLeadership transfers the leadership, if this replica has it, and returns the
// configuration of before. alone is true, and nothing is transferred, if there is no other
// replica.
func (s *Store) yieldLeadership(ctx context.Context) (before []raft.Server, alone bool, err error) {
	if before, err = s.awaitOwnLead(ctx); err != nil {
		return nil, false, err
	}
	if len(before) == 1 && before[0].ID == s.id {
		if err := s.awaitReports(ctx); err != nil {
			return before, false, err
		}
		if len(s.heirs()) == 0 {
			return before, true, nil
		}
	}
	if s.IsLeader() {
		err = s.TransferLeadership(ctx)
	}
	return before, false, err
}
