package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// replica names a member of the group on the wire: to add one, by its raft ID,
// to remove one, by its node. Group is the one that its data is of.
type replica struct {
	ID    string      `json:"id"`
	Addr  string      `json:"addr"`
	Group incarnation `json:"group,omitzero"`
}

// Join makes this replica part of the group that any of the seeds belongs to, as
// one that does not vote, and returns once it serves. Seeds are addresses of
// members. It may be called at every start: a member that is known already, or
// known at an older address, is brought up to date. It tries until ctx ends.
func (s *Store) Join(ctx context.Context, seeds []string) error {
	s.left.Store(false)
	if err := s.joinAny(ctx, seeds); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := s.reads.await(ctx); err != nil {
		return fmt.Errorf("join: catch up: %w", err)
	}
	if err := s.group.setJoined(); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return nil
}

// Joined tells whether this replica has ever held the whole state of its group:
// it founded the group, or a Join succeeded. Until then its state looks like that
// of an empty mesh, or of one long gone, and must not be acted on.
func (s *Store) Joined() bool { return s.group.hasJoined() }

// joinAny asks the seeds in turn until one has brought the request to a leader,
// which answers with the group that this replica then belongs to.
func (s *Store) joinAny(ctx context.Context, seeds []string) error {
	if len(seeds) == 0 {
		return errors.New("no seeds")
	}
	payload, err := json.Marshal(replica{string(s.id), s.cfg.Addr, s.group.current()})
	if err != nil {
		return err
	}
	for n := 0; ; n++ {
		changed := s.leaderChange.wait()
		var errs []error
		for _, addr := range seeds {
			if addr == s.cfg.Addr {
				continue
			}
			err := s.askToJoin(ctx, addr, payload)
			if err == nil {
				return nil
			}
			if permanent(err) {
				return err
			}
			errs = append(errs, err)
		}
		if err := s.pause(ctx, n, changed); err != nil {
			return fmt.Errorf("%w: %w: %w", ErrNoLeader, err, errors.Join(errs...))
		}
	}
}

func (s *Store) askToJoin(ctx context.Context, addr string, payload []byte) error {
	answer, err := s.peers.call(ctx, addr, opJoin, payload)
	if err != nil {
		return err
	}
	i, err := parseIncarnation(answer)
	if err != nil {
		return err
	}
	return s.group.adopt(i)
}

// Leave takes this replica out of the group; Close should follow. A leader hands
// over first. The last replica of a group stays.
func (s *Store) Leave(ctx context.Context) error {
	servers, err := s.servers()
	if err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	if len(servers) == 1 && servers[0].ID == s.id {
		return nil
	}
	if s.IsLeader() {
		if err := s.TransferLeadership(ctx); err != nil {
			return fmt.Errorf("leave: %w", err)
		}
	}
	s.left.Store(true)
	return s.RemoveReplica(ctx, s.cfg.NodeID)
}

// rejoinLoop brings a replica back that was forgotten while it was cut off: it
// has a group in its log, but nobody leads it any more.
func (s *Store) rejoinLoop() {
	every := s.cfg.Timing.Rejoin
	if every == 0 || s.cfg.Members == nil {
		return
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.closing:
			return
		}
		if s.left.Load() || s.Err() != nil {
			continue
		}
		if s.IsLeader() {
			s.meetStrangers()
			continue
		}
		if age := s.lastContact(); age >= 0 && age < every {
			continue
		}
		if servers, err := s.servers(); err != nil || len(servers) == 0 {
			continue // never was in a group: Join is the caller's to ask for
		}
		s.rejoin(every)
	}
}

func (s *Store) rejoin(timeout time.Duration) {
	var seeds []string
	for _, m := range s.cfg.Members() {
		if m.Alive && m.ID != s.cfg.NodeID {
			seeds = append(seeds, m.Addr)
		}
	}
	if len(seeds) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(s.base, timeout)
	defer cancel()
	if err := s.joinAny(ctx, seeds); err != nil {
		s.log.Info("no leader heard for long, and nobody takes this replica in", "err", err)
	}
}

// meetStrangers greets the living members that are no replicas of the group that
// this one leads. Mostly they are about to join. But if they are of a group that
// replaced this one, or that this one replaced, the greeting tells the older: it
// may have a majority of its own and never talk to the other else.
func (s *Store) meetStrangers() {
	servers, err := s.servers()
	if err != nil {
		return
	}
	ours := map[string]bool{s.cfg.NodeID: true}
	for _, srv := range servers {
		ours[nodeOf(srv.ID)] = true
	}
	for _, m := range s.cfg.Members() {
		if !m.Alive || ours[m.ID] || m.Addr == "" {
			continue
		}
		if _, err := s.peers.call(s.base, m.Addr, opStats, nil); err != nil {
			s.log.Info("a member of the mesh is no replica of this group", "member", m.ID, "err", err)
		}
	}
}

// RemoveReplica takes a replica out of the group, such as one whose host will
// not come back. If it does come back it must join again.
func (s *Store) RemoveReplica(ctx context.Context, id string) error {
	payload, err := json.Marshal(replica{ID: id})
	if err != nil {
		return fmt.Errorf("remove replica %s: %w", id, err)
	}
	if _, err := s.atLeader(ctx, opRemoveReplica, payload); err != nil {
		return fmt.Errorf("remove replica %s: %w", id, err)
	}
	return nil
}

// TransferLeadership makes this leader hand over to the voter that is furthest.
// It returns nil if this replica does not lead, or has nobody to hand over to.
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

// handOver transfers leadership and waits until it is gone.
func (s *Store) handOver(ctx context.Context) error {
	done := make(chan error, 1)
	if !s.tasks.start(func() { done <- s.raft.LeadershipTransfer().Error() }) {
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

// promoteHeir gives the only voter of a group with other replicas a successor.
func (s *Store) promoteHeir(ctx context.Context, servers []raft.Server) error {
	for _, srv := range servers {
		if srv.ID == s.id {
			continue
		}
		if _, err := s.peers.call(ctx, string(srv.Address), opStats, nil); err != nil {
			continue
		}
		if err := s.raft.AddVoter(srv.ID, srv.Address, 0, s.cfg.Timing.RPC).Error(); err != nil {
			return fmt.Errorf("transfer leadership: promote %s: %w", srv.ID, err)
		}
		return s.handOver(ctx)
	}
	if len(servers) > 1 {
		return errors.New("transfer leadership: no other replica answers")
	}
	return nil
}

// servers returns the group as this replica knows it.
func (s *Store) servers() ([]raft.Server, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("read group: %w", err)
	}
	return f.Configuration().Servers, nil
}

// atLeader has a request carried out by whoever leads, trying until ctx ends.
// Requests are such that doing them twice does no harm.
func (s *Store) atLeader(ctx context.Context, op opcode, payload []byte) ([]byte, error) {
	for n := 0; ; n++ {
		changed := s.leaderChange.wait()
		answer, err := s.tryLeader(ctx, op, payload)
		if err == nil {
			return answer, nil
		}
		if permanent(err) || !(errors.Is(err, errNotLeader) || errors.Is(err, errUnsettled)) {
			return nil, err
		}
		if werr := s.pause(ctx, n, changed); werr != nil {
			return nil, fmt.Errorf("%w: %w: last attempt: %w", ErrNoLeader, werr, err)
		}
	}
}

func (s *Store) tryLeader(ctx context.Context, op opcode, payload []byte) ([]byte, error) {
	addr, id := s.raft.LeaderWithID()
	switch id {
	case "":
		return nil, errNotLeader
	case s.id:
		return s.leaderRequest(op, payload)
	default:
		return s.peers.call(ctx, string(addr), op, payload)
	}
}

// leaderRequest does what only a leader can.
func (s *Store) leaderRequest(op opcode, payload []byte) ([]byte, error) {
	if !s.IsLeader() {
		return nil, errNotLeader
	}
	switch op {
	case opStatus:
		return json.Marshal(s.peerStatus())
	case opAddReplica, opRemoveReplica:
	default:
		return nil, fmt.Errorf("%w: request %d", ErrInvalidTxn, op)
	}
	var r replica
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidTxn, err)
	}
	if op == opAddReplica {
		if err := s.group.meet(r.Group); err != nil {
			return nil, fmt.Errorf("%w: replica %s: %w", ErrInvalidTxn, r.ID, err)
		}
		own := s.group.current()
		return own[:], s.addReplica(r)
	}
	return nil, s.removeNode(r.ID, "")
}

// removeNode removes every replica of a node but one.
func (s *Store) removeNode(node string, except raft.ServerID) error {
	servers, err := s.servers()
	if err != nil {
		return err
	}
	for _, srv := range servers {
		if nodeOf(srv.ID) != node || srv.ID == except {
			continue
		}
		s.log.Info("removing replica", "id", srv.ID, "addr", srv.Address)
		if err := s.raft.RemoveServer(srv.ID, 0, s.cfg.Timing.RPC).Error(); err != nil {
			return leaderError(err)
		}
	}
	return nil
}

// addReplica adds r or corrects its address. A replica of the same node with
// another ID is one whose data is gone: it is removed first.
func (s *Store) addReplica(r replica) error {
	if r.ID == "" || r.Addr == "" {
		return fmt.Errorf("%w: replica without ID or address", ErrInvalidTxn)
	}
	servers, err := s.servers()
	if err != nil {
		return err
	}
	for _, srv := range servers {
		sameID, sameAddr := string(srv.ID) == r.ID, string(srv.Address) == r.Addr
		switch {
		case sameID && sameAddr:
			return nil
		case sameAddr:
			if nodeOf(srv.ID) != nodeOf(raft.ServerID(r.ID)) {
				return fmt.Errorf("%w: address %s belongs to replica %s; remove that first", ErrInvalidTxn, r.Addr, srv.ID)
			}
		}
	}
	if err := s.removeNode(nodeOf(raft.ServerID(r.ID)), raft.ServerID(r.ID)); err != nil {
		return err
	}
	s.log.Info("adding replica", "id", r.ID, "addr", r.Addr)
	f := s.raft.AddNonvoter(raft.ServerID(r.ID), raft.ServerAddress(r.Addr), 0, s.cfg.Timing.RPC)
	return leaderError(f.Error())
}

// leaderError makes a failed change of the group one that is tried again if
// another leader may do better.
func leaderError(err error) error {
	if err == nil {
		return nil
	}
	return classify(err)
}

// stats is what the leader asks every replica for.
type stats struct {
	LastIndex   uint64        `json:"lastIndex"`
	LastTerm    uint64        `json:"lastTerm"`
	Applied     uint64        `json:"applied"`
	LastContact time.Duration `json:"lastContact"`
	Failure     string        `json:"failure,omitempty"`
}
