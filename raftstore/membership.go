package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/hashicorp/raft"
)

// replica names a replica in a request. ID is the Raft ID in a request to add a
// replica, and the node ID in a request to remove one. Group is the incarnation that
// its data belongs to. Levels are the feature levels that its version knows.
type replica struct {
	ID      string      `json:"id"`
	Addr    string      `json:"addr"`
	Group   incarnation `json:"group,omitzero"`
	Version string      `json:"version,omitempty"`
	Levels  LevelRange  `json:"levels,omitzero"`
	// Proof is the signature of a host that asks to be added, since the leader hears the
	// request from another one.
	Proof []byte `json:"proof,omitempty"`
	// Resigns says that the host asks to lose only its vote. A leader that does not know it
	// removes the replica, which joins again without a vote.
	Resigns bool `json:"resigns,omitempty"`
}

// errUnsigned: in a group in which replicas follow, this one or the leader signs nothing.
var errUnsigned = errors.New("replicas that follow need signatures")

// Join adds this replica to the group of the seeds, without a vote, and returns once it
// has caught up. Seeds are addresses of members of the group. Join may be called at
// every start: for a replica that is in the group already it only updates the
// address, if that changed. It retries until ctx ends. Where replicas follow, it fails at
// once if this replica or the leader has no Config.Signer.
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
	for _, addr := range seeds {
		s.hangUp(addr)
	}
	return nil
}

// Joined reports whether this replica has ever held the whole state of its group:
// it founded the group, or a Join succeeded. Until then its state may be empty or
// outdated, and nothing may act on it.
func (s *Store) Joined() bool { return s.group.hasJoined() }

// joinAny asks the seeds in turn until one has forwarded the request to the leader.
// The leader answers with the incarnation of the group, which this replica adopts.
func (s *Store) joinAny(ctx context.Context, seeds []string) error {
	if len(seeds) == 0 {
		return errors.New("no seeds")
	}
	payload, err := s.requestToJoin()
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
			// A seed that lags may not know the feature level of the mesh; another one does.
			if isPermanent(err) && !errors.Is(err, ErrFeatureLevel) || errors.Is(err, errUnsigned) {
				return err
			}
			errs = append(errs, err)
		}
		if outdated(errs) {
			return errors.Join(errs...)
		}
		if err := s.pauseBeforeRetry(ctx, n, changed); err != nil {
			return fmt.Errorf("%w: %w: %w", ErrNoLeader, err, errors.Join(errs...))
		}
	}
}

// outdated reports whether all seeds refuse the feature levels of this version.
func outdated(refusals []error) bool {
	return len(refusals) > 0 && !slices.ContainsFunc(refusals, func(err error) bool { return !errors.Is(err, ErrFeatureLevel) })
}

func (s *Store) askToJoin(ctx context.Context, addr string, payload []byte) error {
	answer, err := s.peers.call(ctx, addr, opJoin, payload)
	if err != nil {
		return err
	}
	a, err := decodeJoined(answer)
	if err != nil {
		return err
	}
	if err := s.group.adopt(a.group); err != nil {
		return err
	}
	if a.Follow {
		if s.cfg.Signer == nil {
			return fmt.Errorf("%w: the store has no Signer, so nobody would let it vote, and it could confirm nothing", errUnsigned)
		}
		if err := s.introduceVoters(nodesOf(a.Voters)); err != nil {
			return err
		}
		s.feed.noteFollows(a.Index, a.Voters)
	} else {
		s.feed.noteVoters(a.Voters)
	}
	return nil
}

// RemoveReplica removes the replica of node id from the group, for example when its
// host will not come back. If the host does come back, it must join again.
func (s *Store) RemoveReplica(ctx context.Context, id string) error {
	payload, err := json.Marshal(replica{ID: id})
	if err != nil {
		return fmt.Errorf("remove replica %s: %w", id, err)
	}
	if _, err := s.requestAtLeader(ctx, opRemoveReplica, payload); err != nil {
		return fmt.Errorf("remove replica %s: %w", id, err)
	}
	return nil
}

// servers returns the latest configuration of the group that this replica knows.
func (s *Store) servers() ([]raft.Server, error) {
	f := s.raft.GetConfiguration()
	if err := f.Error(); err != nil {
		return nil, fmt.Errorf("read raft configuration: %w", err)
	}
	return f.Configuration().Servers, nil
}

// serveLeaderRequest carries out a request that only a leader can carry out.
// caller is the node that asks, "" for this one, or if peers are believed who they are.
func (s *Store) serveLeaderRequest(ctx context.Context, caller string, op opcode, payload []byte) ([]byte, error) {
	if !s.IsLeader() {
		return nil, errNotLeader
	}
	if err := s.refuseFollowing(op); err != nil {
		return nil, err
	}
	switch op {
	case opStatus:
		return json.Marshal(s.peerStatus())
	case opSilences:
		silences, err := s.silences()
		if err != nil {
			return nil, err
		}
		return json.Marshal(silences)
	case opReport:
		return s.serveReport(caller, payload)
	case opRaiseLevel:
		return nil, s.serveRaise(ctx, payload)
	case opRenewLease, opFence, opLeases:
		return s.serveLeases(ctx, caller, op, payload)
	case opCheckpoint:
		return nil, s.makeCheckpoint()
	case opAddReplica, opRemoveReplica:
	default:
		return nil, fmt.Errorf("%w: request %d", ErrInvalidTxn, op)
	}
	var r replica
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidTxn, err)
	}
	if op == opAddReplica {
		if err := s.group.checkPeer(r.Group); err != nil {
			return nil, fmt.Errorf("%w: replica %s: %w", ErrInvalidTxn, r.ID, err)
		}
		if err := s.checkProof(caller, r); err != nil {
			return nil, err
		}
		return s.addReplica(ctx, r)
	}
	if r.Resigns {
		return nil, s.serveResign(caller, r.ID)
	}
	if caller != "" && caller != r.ID && s.cfg.Members != nil && s.isMember(r.ID) {
		// The leader may not have heard yet that it is none any more.
		return nil, fmt.Errorf("%w: host %q asks to remove the replica of %q, which is a member", errNotLeader, caller, r.ID)
	}
	return nil, s.removeNode(r.ID, "")
}

// removeNode removes every replica of a node except the one with the given ID.
func (s *Store) removeNode(node string, except raft.ServerID) error {
	servers, err := s.servers()
	if err != nil {
		return err
	}
	if except == "" {
		s.followers.forgetNode(node, s.silentFeed())
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

// serveJoin passes the request of a replica to be added on to the leader.
func (s *Store) serveJoin(ctx context.Context, from net.Conn, payload []byte) ([]byte, error) {
	var r replica
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("%w: request to join: %w", ErrInvalidTxn, err)
	}
	if err := s.checkCaller(from, r.ID); err != nil {
		return nil, err
	}
	return s.requestAtLeader(ctx, opAddReplica, payload)
}

// addReplica adds r or updates its address, and returns the answer to it. A replica of the
// same node with another ID has lost its data, so it is removed first. Where replicas may
// follow, a new one does.
func (s *Store) addReplica(ctx context.Context, r replica) ([]byte, error) {
	if r.ID == "" || r.Addr == "" {
		return nil, fmt.Errorf("%w: replica has no ID or no address", ErrInvalidTxn)
	}
	release, err := s.holdLevel(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if _, err := s.termReady(); err != nil {
		return nil, err
	}
	if err := s.group.checkLevels(greeting{node: nodeOf(raft.ServerID(r.ID)), version: r.Version, levels: r.Levels}); err != nil {
		return nil, err
	}
	servers, err := s.servers()
	if err != nil {
		return nil, err
	}
	here := false
	for _, srv := range servers {
		sameID, sameAddr := string(srv.ID) == r.ID, string(srv.Address) == r.Addr
		switch {
		case sameID && sameAddr:
			return s.joined(servers, false)
		case sameID:
			here = true
		case sameAddr:
			if nodeOf(srv.ID) != nodeOf(raft.ServerID(r.ID)) {
				return nil, fmt.Errorf("%w: address %s belongs to replica %s; remove that replica first", ErrInvalidTxn, r.Addr, srv.ID)
			}
		}
	}
	if err := s.removeNode(nodeOf(raft.ServerID(r.ID)), raft.ServerID(r.ID)); err != nil {
		return nil, err
	}
	if !here && s.followersAllowed() {
		if node := nodeOf(raft.ServerID(r.ID)); !s.isMember(node) {
			// The leader may not have heard of a new one yet.
			return nil, fmt.Errorf("%w: %s is no member of the mesh", errNotLeader, node)
		}
		if s.cfg.Signer == nil {
			return nil, fmt.Errorf("%w: %w: the leader %s has no Signer, so nobody could confirm what it says", ErrInvalidTxn, errUnsigned, s.cfg.NodeID)
		}
		s.followers.keepFollower(raft.ServerID(r.ID), r.Addr, s.followers.awake.now())
		return s.joined(servers, true)
	}
	s.log.Info("adding replica", "id", r.ID, "addr", r.Addr)
	f := s.raft.AddNonvoter(raft.ServerID(r.ID), raft.ServerAddress(r.Addr), 0, s.cfg.Timing.RPC)
	if err := f.Error(); err != nil {
		return nil, leaderError(err)
	}
	return s.joined(servers, false)
}

// leaderError classifies the error of a failed membership change, so that the
// caller retries it where another attempt may succeed.
func leaderError(err error) error {
	if err == nil {
		return nil
	}
	return classify(err)
}
