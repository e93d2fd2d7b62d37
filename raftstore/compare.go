package raftstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Replicas apply the same log, so their states are the same, unless a version judges an
// entry differently, a constraint is not pure, or memory is faulty. Nothing in Raft would
// notice. So the leader regularly asks the voters for statements on their states at a log
// index, and sends those of a majority to all replicas, which compare them with their own.
// A replica that finds that a majority of the voters agrees on another state halts; the
// leader too. No replica halts because a single other one says so, and none halts without a
// majority.

// keyDiverged of the stable store says that the state on the disk is not the group's.
var keyDiverged = []byte("VirtmeshDiverged")

// compareLoop compares the states of replicas until the store is closed: as the leader at
// intervals, and otherwise whenever statements have come.
func (s *Store) compareLoop() {
	var tick <-chan time.Time
	if s.cfg.Timing.Compare > 0 {
		ticker := time.NewTicker(s.cfg.Timing.Compare)
		defer ticker.Stop()
		tick = ticker.C
	}
	for {
		select {
		case <-s.trust.received.wake:
			s.takeStatements(s.trust.received.takeNewest())
		case <-tick:
			if s.IsLeader() {
				s.publishStatements()
			}
		case <-s.failure.failed:
			return
		case <-s.closing:
			return
		}
	}
}

// publishStatements makes sure that this leader agrees with the voters, and sends what they
// have signed to all replicas.
func (s *Store) publishStatements() {
	servers, err := s.servers()
	if err != nil {
		return
	}
	agreed := s.agreeWithVoters(s.applied.get(), servers)
	if agreed == nil {
		return
	}
	if v, err := tally(agreed, s.group.current(), s.believedVoters(), s.cfg.Signer); err == nil {
		s.trust.keepAgreement(v)
	} else if s.cfg.Signer != nil {
		s.log.Warn("the voters agree, but what they have signed cannot be passed on", "err", err)
	}
	bundle := encodeBundle(agreed)
	for _, srv := range servers {
		if srv.ID != s.id {
			s.peers.notify(string(srv.Address), opStatements, bundle)
		}
	}
}

// takeStatements compares this replica's state with statements that another replica has
// sent. Signatures of a majority are believed. A replica that is in the Raft configuration
// takes others for a hint, and asks the voters itself; a hint about an index that its log
// does not reach is worth no wait.
func (s *Store) takeStatements(bundle []byte) {
	list, err := decodeBundle(bundle)
	if err != nil || len(list) == 0 {
		return
	}
	v, err := tally(list, s.group.current(), s.believedVoters(), s.cfg.Signer)
	signed := err == nil
	if signed {
		s.trust.keepAgreement(v)
	} else {
		v = agreement{index: list[0].index, digest: list[0].digest}
		if v.index > s.raft.LastIndex() {
			return // a liar's index may never come, and waiting for it holds up all others
		}
	}
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	if s.applied.wait(ctx, v.index) != nil {
		return // later ones come soon
	}
	if signed {
		_ = s.compareAgreement(v) // an error of consequence has halted the replica
		return
	}
	if own, ok := s.digests.at(v.index); ok && own != v.digest && s.trust.confirms(v.index) {
		if servers, err := s.servers(); err == nil {
			s.agreeWithVoters(v.index, servers)
		}
	}
}

// agreeWithVoters asks the voters about their states at a log index that this replica has
// applied. It returns the statements of a majority that agrees with this replica. If a
// majority agrees on another state, the replica halts.
func (s *Store) agreeWithVoters(index uint64, servers []raft.Server) []signedStatement {
	own, ok := s.digests.at(index)
	if !ok {
		return nil
	}
	voters := map[string]string{}
	for _, srv := range servers {
		if srv.Suffrage == raft.Voter {
			voters[nodeOf(srv.ID)] = string(srv.Address)
		}
	}
	answers := s.statementsByNode(s.base, index, voters)
	holders := map[digest][]string{own: nil}
	for node, said := range answers {
		holders[said.digest] = append(holders[said.digest], node)
	}
	if len(holders) > 1 {
		s.metrics.mismatches.Inc()
		s.log.Error("replicas differ in their state", "index", index, "digests", describeHolders(holders))
	}
	for d, names := range holders {
		if 2*len(names) <= len(voters) {
			continue
		}
		slices.Sort(names)
		if d == own {
			agreed := make([]signedStatement, 0, len(names))
			for _, node := range names {
				agreed = append(agreed, answers[node])
			}
			return agreed
		}
		s.haltDiverged(fmt.Errorf("%w: at log index %d its digest is %s, and %d of %d voters have %s (%s)",
			ErrDiverged, index, own, len(names), len(voters), d, strings.Join(names, ", ")))
	}
	return nil
}

// statementsOf asks nodes for statements on their states at a log index.
func (s *Store) statementsOf(ctx context.Context, index uint64, nodes map[string]string) []signedStatement {
	return slices.Collect(maps.Values(s.statementsByNode(ctx, index, nodes)))
}

// statementsByNode returns what each of the nodes that answer says. nodes are their
// addresses. Whether the signatures are valid is not checked.
func (s *Store) statementsByNode(ctx context.Context, index uint64, nodes map[string]string) map[string]signedStatement {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC)
	defer cancel()
	question := encodeQuestion(index)
	answers := map[string]signedStatement{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for node, addr := range nodes {
		asking.Go(func() {
			said, err := s.askStatement(ctx, node, addr, question)
			if err != nil || said.index != index {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[node] = said
		})
	}
	asking.Wait()
	return answers
}

// askStatement asks a node, which may be this one.
func (s *Store) askStatement(ctx context.Context, node, addr string, question []byte) (signedStatement, error) {
	var answer []byte
	var err error
	if node == s.cfg.NodeID {
		answer, err = s.serveStatement(ctx, question)
	} else {
		answer, err = s.peers.call(ctx, addr, opStatement, question)
	}
	if err != nil {
		return signedStatement{}, err
	}
	return decodeSigned(answer)
}

// encodeQuestion asks for a statement on the state at a log index.
func encodeQuestion(index uint64) []byte {
	return binary.LittleEndian.AppendUint64([]byte{digestVersion}, index)
}

// serveStatement answers with a signed statement on this replica's state at a log index,
// once it has applied it. A replica that is fed, or that does not vote, says nothing of which
// it is not certain, even if it voted when it was last in Raft.
func (s *Store) serveStatement(ctx context.Context, question []byte) ([]byte, error) {
	r := &reader{b: question}
	version, index := r.byte(), r.uint64()
	if r.err != nil {
		return nil, fmt.Errorf("%w: question for a statement: %w", ErrInvalidTxn, r.err)
	}
	if version != digestVersion {
		return nil, fmt.Errorf("%w: digest of version %d, this replica makes version %d", ErrInvalidTxn, version, digestVersion)
	}
	if err := s.applied.wait(ctx, index); err != nil {
		return nil, err
	}
	said := statement{group: s.group.current(), index: index, checkpoint: s.checkpoints.newest(), voters: s.votersAt(index)}
	var ok bool
	if said.digest, ok = s.digests.at(index); !ok {
		return nil, fmt.Errorf("%w: the digest at log index %d is not kept any more", ErrCompacted, index)
	}
	fed := s.position() == follows || !slices.Contains(said.voters, s.cfg.NodeID)
	if fed && !s.trust.confirms(index) {
		if s.position() == follows {
			// Not for long: two former voters that ask each other would wait for each other.
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, s.cfg.Timing.RPC/4)
			defer cancel()
		}
		if err := s.Confirm(ctx); err != nil {
			return nil, err
		}
	}
	signed, err := said.sign(s.cfg.Signer)
	if err != nil {
		return nil, err
	}
	return signed.append(nil), nil
}

func describeHolders(holders map[digest][]string) string {
	var list []string
	for d, names := range holders {
		if len(names) == 0 {
			names = []string{"this replica"}
		}
		list = append(list, d.String()+": "+strings.Join(names, ", "))
	}
	slices.Sort(list)
	return strings.Join(list, "; ")
}

// haltDiverged halts the replica for good: at every later start it fails with the same
// error, until its state was deleted.
func (s *Store) haltDiverged(err error) {
	text := err.Error()
	if serr := s.group.writeDisk(func() error { return s.disk.stable.Set(keyDiverged, []byte(text)) }); serr != nil {
		s.log.Error("could not store that this replica has diverged", "err", serr)
	}
	s.haltReplica(fmt.Errorf("%w: %w", ErrHalted, err))
}

// divergence returns the error of an earlier haltDiverged, nil if there was none.
func (d *disk) divergence() error {
	text, err := d.get(keyDiverged)
	if err != nil || len(text) == 0 {
		return err
	}
	found := strings.TrimPrefix(string(text), ErrDiverged.Error())
	return fmt.Errorf("%w%s", ErrDiverged, found)
}
