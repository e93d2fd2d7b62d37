package raftstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"time"
)

// followCheck is how often a wait for the local replica looks after its disk.
const followCheck = time.Second

// Commit carries out t on whichever replica leads and returns when this replica
// shows it. It is safe to call from any replica. While no leader answers it
// tries again, with the same RequestID, until ctx ends.
//
// A refusal is a *ConflictError or a *ConstraintError. With ErrNoLeader nothing
// happened; with ErrUnknownOutcome the txn may or may not have happened.
func (s *Store) Commit(ctx context.Context, t Txn) (TxnResult, error) {
	begin := time.Now()
	result, err := s.commit(ctx, t)
	s.metrics.observeTxn(begin, err)
	return result, err
}

func (s *Store) commit(ctx context.Context, t Txn) (TxnResult, error) {
	if err := t.validate(); err != nil {
		return TxnResult{}, err
	}
	if t.RequestID == "" {
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		t.RequestID = string(id[:])
	}
	envelope := encodeTxn(&t, s.history.current().seq)
	if len(envelope) > s.cfg.Limits.MaxTxnBytes {
		return TxnResult{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(envelope), s.cfg.Limits.MaxTxnBytes)
	}
	out, err := s.settle(ctx, envelope)
	if err != nil {
		return TxnResult{}, err
	}
	if err := s.follow(ctx, out.index); err != nil {
		return TxnResult{}, fmt.Errorf("%w: wait for the local replica: %w", ErrUnknownOutcome, err)
	}
	return out.result()
}

// follow waits until the local replica has reached a log index. It gives up if
// the replica cannot, because its disk fails.
func (s *Store) follow(ctx context.Context, index uint64) error {
	for {
		step, cancel := context.WithTimeout(ctx, followCheck)
		err := s.applied.wait(step, index)
		cancel()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		if err := s.disk.logs.err(); err != nil {
			return err
		}
	}
}

// settle repeats attempts until the txn has been judged or ctx ends.
func (s *Store) settle(ctx context.Context, envelope []byte) (outcome, error) {
	unsettled := false // some attempt may still be in the log
	for n := 0; ; n++ {
		changed := s.leaderChange.wait()
		out, err := s.attempt(ctx, envelope)
		switch {
		case err == nil && out.kind == outcomeTooOld && !unsettled:
			// This replica lags far behind; nothing of the txn is in the log.
			binary.LittleEndian.PutUint64(envelope, out.seq)
			continue
		case err == nil && out.kind == outcomeTooOld:
			return outcome{}, fmt.Errorf("%w: the request is too old to be recognised", ErrUnknownOutcome)
		case err == nil:
			return out, nil
		}
		unsettled = unsettled || errors.Is(err, errUnsettled)
		if permanent(err) {
			return outcome{}, giveUp(unsettled, err)
		}
		s.metrics.retries.Inc()
		if werr := s.pause(ctx, n, changed); werr != nil {
			if full := s.disk.logs.err(); full != nil {
				err = fmt.Errorf("%w: %w", err, full)
			}
			return outcome{}, giveUp(unsettled, fmt.Errorf("%w: last attempt: %w", werr, err))
		}
	}
}

// attempt tries once, here or at the leader.
func (s *Store) attempt(ctx context.Context, envelope []byte) (outcome, error) {
	if err := ctx.Err(); err != nil {
		return outcome{}, err
	}
	if err := s.Err(); err != nil {
		return outcome{}, err
	}
	leader := s.leader()
	switch leader.id {
	case "":
		return outcome{}, errNotLeader
	case s.id:
		if err := s.admit(envelope); err != nil {
			return outcome{}, err
		}
		return s.proposer.propose(ctx, envelope)
	default:
		return s.peers.commit(ctx, leader, envelope)
	}
}

// admit refuses a txn that would halt a replica: the leader asks, before it
// proposes, whether it and every living member know the constraints.
func (s *Store) admit(envelope []byte) error {
	calls, err := decodeCalls(envelope)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidTxn, err)
	}
	for _, c := range calls {
		known := s.constraints[constraintKey{c.Name, c.Version}]
		if known == nil {
			return fmt.Errorf("%w: %s/v%d at the leader", ErrUnknownConstraint, c.Name, c.Version)
		}
		if known.FeatureLevel == 0 || s.cfg.Members == nil {
			continue
		}
		for _, m := range s.cfg.Members() {
			if m.Alive && m.FeatureLevel < known.FeatureLevel {
				return fmt.Errorf("%w: %s/v%d needs feature level %d, member %s has %d",
					ErrUnknownConstraint, c.Name, c.Version, known.FeatureLevel, m.ID, m.FeatureLevel)
			}
		}
	}
	return nil
}

// permanent tells whether trying again cannot help. The end of a context is not
// among it: the timeout of a dial looks the same.
func permanent(err error) bool {
	for _, e := range []error{ErrInvalidTxn, ErrTooLarge, ErrUnknownConstraint, ErrHalted, ErrReplaced, ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// giveUp is the error of a request that ended without an outcome.
func giveUp(unsettled bool, err error) error {
	switch {
	case unsettled:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case errors.Is(err, errNotLeader):
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	default:
		return err
	}
}

// pause waits before attempt n+1: not long, and not at all once the leader has
// changed since the last attempt began.
func (s *Store) pause(ctx context.Context, n int, changed <-chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	limit := 10 * time.Millisecond << min(n, 5)
	timer := time.NewTimer(limit/2 + mrand.N(limit/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.closing:
		return ErrClosed
	}
	return nil
}

// result is what Commit returns for an outcome.
func (o *outcome) result() (TxnResult, error) {
	switch o.kind {
	case outcomeApplied:
		r := TxnResult{Revision: o.revision, OpRevisions: make([]uint64, o.ops)}
		for i := range r.OpRevisions {
			r.OpRevisions[i] = o.revision - uint64(o.ops) + 1 + uint64(i)
		}
		return r, nil
	case outcomeConflict:
		return TxnResult{}, o.conflict
	case outcomeRefused:
		return TxnResult{}, o.constraint
	case outcomeReused:
		return TxnResult{}, ErrRequestIDReused
	default:
		return TxnResult{}, fmt.Errorf("%w: outcome of kind %d", ErrUnknownOutcome, o.kind)
	}
}

// validate refuses what no replica should have to judge.
func (t *Txn) validate() error {
	switch {
	case len(t.RequestID) > MaxRequestIDLen:
		return fmt.Errorf("%w: RequestID has %d bytes, the limit is %d", ErrInvalidTxn, len(t.RequestID), MaxRequestIDLen)
	case max(len(t.If), len(t.Ops), len(t.Constraints)) > MaxTxnOps:
		return fmt.Errorf("%w: more than %d conditions, ops or constraint calls", ErrTooLarge, MaxTxnOps)
	}
	for i := range t.If {
		if err := validKey(t.If[i].Key); err != nil {
			return fmt.Errorf("%w: If[%d]: %w", ErrInvalidTxn, i, err)
		}
	}
	for i := range t.Ops {
		if err := validKey(t.Ops[i].Key); err != nil {
			return fmt.Errorf("%w: Ops[%d]: %w", ErrInvalidTxn, i, err)
		}
	}
	return nil
}

func validKey(key string) error {
	switch {
	case key == "":
		return errors.New("key is empty")
	case len(key) > MaxKeyLen:
		return fmt.Errorf("key has %d bytes, the limit is %d", len(key), MaxKeyLen)
	}
	return nil
}
