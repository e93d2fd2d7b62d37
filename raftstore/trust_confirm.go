package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Pauses between the rounds in which a replica asks the voters. The first round begins at
// once; while callers keep coming, all of them share the next one.
const (
	askPause = 100 * time.Millisecond
	askRetry = time.Second
)

// Confirm returns once the state that this replica has applied at the time of the call is
// certainly the group's. Whatever cannot be undone must not be done on the word of the store
// before that. A replica that got its log from the leader returns at once, without asking
// anybody. One that was fed by another replica waits until a majority of the voters has
// signed the same; then Confirm fails only with ctx, wrapping ErrUnconfirmed, or because the
// replica has halted.
func (s *Store) Confirm(ctx context.Context) error {
	index := s.applied.get()
	for {
		changed := s.trust.changed.wait()
		if err := s.Err(); err != nil {
			return err
		}
		if s.trust.confirms(index) {
			return nil
		}
		select {
		case s.trust.wanted <- struct{}{}:
		default:
		}
		select {
		case <-changed:
		case <-s.failure.failed:
		case <-s.closing:
			return ErrClosed
		case <-ctx.Done():
			return fmt.Errorf("%w: %w: %w", ErrUnconfirmed, ctx.Err(), s.trust.whyNot())
		}
	}
}

// confirmLoop asks the voters whenever a caller of Confirm waits.
func (s *Store) confirmLoop() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-s.closing:
			return
		}
		select {
		case <-s.trust.wanted:
		case <-s.closing:
			return
		}
		wait := askPause
		if err := s.askVoters(); err != nil {
			s.trust.fail(err)
			wait = askRetry
		} else if s.trust.unverified() > 0 {
			wait = askRetry // a checkpoint takes a while
		}
		pause.Reset(wait)
	}
}

// askVoters asks the voters for statements about the state that this replica has now, and
// compares it. After a fed snapshot it asks the leader for a checkpoint too.
func (s *Store) askVoters() error {
	ctx, cancel := context.WithTimeout(s.base, s.cfg.Timing.RPC)
	defer cancel()
	if err := s.askForCheckpoint(ctx); err != nil {
		return err
	}
	index := s.applied.get()
	voters := s.believedVoters()
	if len(voters) == 0 {
		return fmt.Errorf("this replica knows no voters; %s", s.cfg.Remedy)
	}
	asked := s.addressesOf(voters)
	if s.position() == follows {
		delete(asked, s.cfg.NodeID) // its own word on what it was fed is worth nothing
	}
	list := s.statementsOf(ctx, index, asked)
	if s.position() == follows {
		for _, addr := range asked {
			s.hangUp(addr) // all followers ask the same few
		}
	}
	v, err := tally(list, s.group.current(), voters, s.cfg.Signer)
	if err != nil {
		if gone := s.votersGone(); gone != nil {
			return gone
		}
		return fmt.Errorf("of the voters %v, which this replica believes, %d answer: %w; if the others do not come back, empty %s and join again",
			voters, len(list), err, s.cfg.DataDir)
	}
	s.trust.keepAgreement(v)
	return s.compareAgreement(v)
}

// askForCheckpoint asks the leader for a checkpoint, if one is needed and none was made in a
// while.
func (s *Store) askForCheckpoint(ctx context.Context) error {
	if s.trust.unverified() == 0 || time.Since(s.checkpoints.lastApplied()) < checkpointPause {
		return nil
	}
	if _, err := s.requestAtLeader(ctx, opCheckpoint, nil); err != nil {
		return fmt.Errorf("ask for a checkpoint: %w", err)
	}
	return nil
}

// addressesOf returns the addresses at which to ask nodes, and those that vote by the latest
// configuration that this replica was told of. They only say whom to ask: what they answer
// is signed.
func (s *Store) addressesOf(nodes []string) map[string]string {
	addresses := map[string]string{}
	for _, m := range s.members() {
		if slices.Contains(nodes, m.ID) && m.Addr != "" {
			addresses[m.ID] = m.Addr
		}
	}
	servers, err := s.servers()
	if err != nil {
		return addresses
	}
	voters := votersOf(servers)
	for _, srv := range servers {
		if node := nodeOf(srv.ID); len(addresses) < maxStatedVoters && (slices.Contains(voters, node) || slices.Contains(nodes, node)) {
			addresses[node] = string(srv.Address)
		}
	}
	return addresses
}

// compareAgreement compares this replica's state with what the voters have signed. If they
// differ, the replica halts.
func (s *Store) compareAgreement(v agreement) error {
	if s.applied.get() < v.index {
		return fmt.Errorf("this replica has not applied log index %d yet", v.index)
	}
	own, ok := s.digests.at(v.index)
	if !ok {
		return fmt.Errorf("%w: the digest at log index %d is not kept any more", ErrCompacted, v.index)
	}
	if own != v.digest {
		s.metrics.mismatches.Inc()
		err := fmt.Errorf("%w: at log index %d its digest is %s, and %d voters have signed %s (%v)%s",
			ErrDiverged, v.index, own, len(v.signers), v.digest, v.signers, s.trust.from())
		s.haltDiverged(err)
		return err
	}
	s.trust.agree(v)
	if err := s.settleDoubt(v); err != nil {
		return err
	}
	return s.compareCheckpoint(v)
}

// compareCheckpoint compares the hash of this replica's state after a checkpoint with what
// the voters have signed.
func (s *Store) compareCheckpoint(v agreement) error {
	own, ok := s.checkpoints.at(v.checkpoint.index)
	if !ok || v.checkpoint.index == 0 {
		return nil // not hashed yet, or before this replica's time
	}
	if own != v.checkpoint.hash {
		s.metrics.mismatches.Inc()
		err := fmt.Errorf("%w: after the checkpoint at log index %d its state has the hash %s, and %d voters have signed %s (%v)%s",
			ErrDiverged, v.checkpoint.index, own, len(v.signers), v.checkpoint.hash, v.signers, s.trust.from())
		s.haltDiverged(err)
		return err
	}
	return s.trust.verify(v.checkpoint.index)
}

// saveTrust writes what this replica must remember.
func (s *Store) saveTrust(r trustRecord) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return s.group.writeDisk(func() error { return s.disk.stable.Set(keyTrust, data) })
}

// loadTrust reads what earlier runs have remembered. It must run before the log is replayed.
func (s *Store) loadTrust() error {
	data, err := s.disk.get(keyTrust)
	if err != nil {
		return err
	}
	last, err := s.disk.logs.LastIndex()
	if err != nil {
		return diskError(err, "read last index")
	}
	list, err := s.disk.listSnapshots()
	if err != nil {
		return err
	}
	if len(list) > 0 {
		last = max(last, list[0].Index)
	}
	return s.trust.load(data, s.group.current(), last)
}
