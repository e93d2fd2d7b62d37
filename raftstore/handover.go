package raftstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// TransferLeadership transfers leadership to a voter that answers.
// A leader that is the only voter first promotes another replica. It returns nil if
// this replica does not lead, or is the only replica of its group.
func (s *Store) TransferLeadership(ctx context.Context) error {
	if !s.IsLeader() {
		return nil
	}
	servers, err := s.servers()
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	voters := 0
	for _, srv := range servers {
		if srv.Suffrage == raft.Voter {
			voters++
		}
	}
	if voters < 2 {
		return s.promoteHeir(ctx, servers)
	}
	return s.handOver(ctx)
}

// handOver transfers leadership to a voter that was just heard, and waits until the transfer
// has ended. Raft alone would choose a dead one as well as any other, as long as it had all
// entries.
func (s *Store) handOver(ctx context.Context) error {
	servers, err := s.servers()
	if err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	servers = slices.DeleteFunc(slices.Clone(servers), func(srv raft.Server) bool { return srv.ID == s.id || srv.Suffrage != raft.Voter })
	if len(servers) == 0 {
		return errors.New("transfer leadership: there is no other voter")
	}
	rand.Shuffle(len(servers), func(i, j int) { servers[i], servers[j] = servers[j], servers[i] })
	// All that answer were heard within one update, so any of them may be chosen.
	unheard := func(srv raft.Server) time.Duration { return s.autopilot.silence(srv.ID) / s.cfg.Voters.Update }
	to := slices.MinFunc(servers, func(a, b raft.Server) int { return cmp.Compare(unheard(a), unheard(b)) })
	done := make(chan error, 1)
	if !s.tasks.start(func() { done <- s.raft.LeadershipTransferToServer(to.ID, to.Address).Error() }) {
		return ErrClosed
	}
	select {
	case err := <-done:
		if err != nil && s.IsLeader() {
			return fmt.Errorf("transfer leadership: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("transfer leadership: %w", ctx.Err())
	}
}

// promoteHeir promotes a replica that answers to voter and transfers leadership to
// it. It is used when the leader is the only voter. Until it has ended autopilot leaves the votes as
// they are: it would take that of the heir again where one voter is enough.
func (s *Store) promoteHeir(ctx context.Context, servers []raft.Server) error {
	defer s.autopilot.holdVotes()()
	servers = append(servers, s.heirs()...)
	limit := s.voterLimit()
	var errs []error
	for _, srv := range servers {
		if srv.ID == s.id {
			continue
		}
		if node := nodeOf(srv.ID); !limit.Allows(node) {
			errs = append(errs, fmt.Errorf("%s: %w", node, ErrMayNotVote))
			continue
		}
		if err := s.prepareHeir(ctx, srv); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", srv.ID, err))
			continue
		}
		if err := s.raft.AddVoter(srv.ID, srv.Address, 0, s.cfg.Timing.RPC).Error(); err != nil {
			return fmt.Errorf("transfer leadership: promote %s: %w", srv.ID, err)
		}
		s.letFollowersLearn(ctx, len(servers) > 2)
		return s.handOver(ctx)
	}
	if len(servers) > 1 {
		return fmt.Errorf("transfer leadership: no other replica can take over: %w", errors.Join(errs...))
	}
	return nil
}

// letFollowersLearn gives the followers of an only voter, if there are some besides its heir,
// the time to ask who votes now: they believe nobody else, and it is about to leave.
func (s *Store) letFollowersLearn(ctx context.Context, followed bool) {
	if !followed || !s.followersAllowed() {
		return
	}
	timer := time.NewTimer(s.learnTime() + 2*s.silentFeed())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// prepareHeir makes sure that a replica can be promoted: that it answers, and, if it follows,
// that it has come into the configuration without a vote and that its state is this leader's.
// Only so does it get its vote from Raft: it would not believe it from a feed.
func (s *Store) prepareHeir(ctx context.Context, srv raft.Server) error {
	if _, err := s.peers.call(ctx, string(srv.Address), opStats, nil); err != nil || !s.followersAllowed() {
		return err
	}
	s.autopilot.noteAdded(srv.ID)
	if err := s.addNonvoter(ctx, srv.ID, srv.Address); err != nil {
		return fmt.Errorf("add %s to the configuration: %w", srv.ID, err)
	}
	return s.checkState(nodeOf(srv.ID), string(srv.Address))
}

// heirs returns the known followers as servers, those first that have been healthy for
// longest, for a leader that has no other voter.
func (s *Store) heirs() (list []raft.Server) {
	known := slices.Collect(maps.Values(s.followers.judge(s.SilenceLimit(), s.raft.LastIndex())))
	slices.SortFunc(known, func(a, b knownFollower) int {
		return cmp.Or(order(a.healthy)-order(b.healthy), a.since.Compare(b.since))
	})
	for _, k := range known {
		list = append(list, raft.Server{Suffrage: raft.Nonvoter, ID: raft.ServerID(k.ID), Address: raft.ServerAddress(k.Addr)})
	}
	return list
}

// awaitReports waits until a leader can have heard of all followers.
func (s *Store) awaitReports(ctx context.Context) error {
	for s.IsLeader() && s.autopilot.isNew() {
		if err := s.pauseBeforeRetry(ctx, 5, nil); err != nil {
			return err
		}
	}
	return nil
}
