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

// followCheck is how often a wait for the local replica checks whether the
// replica's disk has failed.
const followCheck = time.Second

// Commit sends t to the leader and returns when the local replica has applied it.
// It may be called on any replica. While no leader answers, Commit retries with
// the same RequestID until ctx ends.
//
// A refused txn returns a *ConflictError or a *ConstraintError. ErrNoLeader means
// that nothing changed. ErrUnknownOutcome means that the txn may or may not have
// happened.
func (s *Store) Commit(ctx context.Context, t Txn) (TxnResult, error) {
	begin := time.Now()
	if err := t.refuseReserved(); err != nil {
		return TxnResult{}, err
	}
	result, err := s.commit(ctx, t)
	s.metrics.observeTxn(begin, err)
	return result, err
}

func (s *Store) commit(ctx context.Context, t Txn) (TxnResult, error) {
	if err := t.validate(); err != nil {
		return TxnResult{}, err
	}
	if t.RequestID == "" {
		if err := s.refusedAlready(&t); err != nil {
			return TxnResult{}, err
		}
		var id [16]byte
		_, _ = rand.Read(id[:]) // never fails
		t.RequestID = string(id[:])
	}
	envelope := encodeTxn(&t, s.history.current().seq)
	if len(envelope) > s.cfg.Limits.MaxTxnBytes {
		return TxnResult{}, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(envelope), s.cfg.Limits.MaxTxnBytes)
	}
	out, err := s.commitUntilSettled(ctx, envelope)
	if err != nil {
		return TxnResult{}, err
	}
	if err := s.waitApplied(ctx, out.index); err != nil {
		return TxnResult{}, fmt.Errorf("%w: wait for the local replica: %w", ErrUnknownOutcome, err)
	}
	return out.result()
}

// refusedAlready returns why a new txn is refused, if the local replica shows that
// it certainly will be: a key that a condition names has changed since the
// condition's revision, and a key never gets an earlier revision back. Such a txn
// needs no log entry. A control loop that acts on a cache behind the replica makes
// many of them. A retry of an earlier request is not refused here, because the
// change that the replica shows may be its own.
func (s *Store) refusedAlready(t *Txn) error {
	if err := s.Err(); err != nil {
		return err
	}
	now := s.history.current()
	for _, c := range t.If {
		if c.ModRevision == 0 || c.ModRevision > now.revision {
			continue // the key may be gone by now, or this replica lags
		}
		record, ok := now.tree.Get(&stored{key: c.Key})
		switch {
		case !ok:
			return &ConflictError{Key: c.Key, Want: c.ModRevision}
		case record.modRevision != c.ModRevision:
			return &ConflictError{Key: c.Key, Want: c.ModRevision, Current: recordOf(record)}
		}
	}
	return nil
}

// waitApplied waits until the local replica has applied the log up to index. It
// returns the disk's error if the log cannot be written.
func (s *Store) waitApplied(ctx context.Context, index uint64) error {
	if s.applied.get() >= index {
		return nil // as at the leader
	}
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

// commitUntilSettled repeats attempts until the txn has been judged or ctx ends.
func (s *Store) commitUntilSettled(ctx context.Context, envelope []byte) (outcome, error) {
	unsettled := false // some attempt may still be in the log
	for n := 0; ; n++ {
		changed := s.leaderChange.wait()
		out, err := s.attemptCommit(ctx, envelope)
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
		if isPermanent(err) {
			return outcome{}, giveUpError(unsettled, err)
		}
		s.metrics.retries.Inc()
		if werr := s.pauseBeforeRetry(ctx, n, changed); werr != nil {
			if full := s.disk.logs.err(); full != nil {
				err = fmt.Errorf("%w: %w", err, full)
			}
			return outcome{}, giveUpError(unsettled, fmt.Errorf("%w: last attempt: %w", werr, err))
		}
	}
}

// attemptCommit makes one attempt, on this replica if it leads or else through
// the leader.
func (s *Store) attemptCommit(ctx context.Context, envelope []byte) (outcome, error) {
	if err := ctx.Err(); err != nil {
		return outcome{}, err
	}
	if err := s.Err(); err != nil {
		return outcome{}, err
	}
	leader := s.leader()
	switch leader.id {
	case "":
		return outcome{}, s.noLeader()
	case s.id:
		if err := s.checkConstraints(envelope); err != nil {
			return outcome{}, err
		}
		return s.proposer.propose(ctx, envelope)
	default:
		return s.peers.commit(ctx, leader, envelope)
	}
}

// checkConstraints refuses a txn that would halt a replica. Before it proposes
// the txn, the leader checks that it knows the constraints that the txn calls, and that
// the feature level says that every replica does.
func (s *Store) checkConstraints(envelope []byte) error {
	calls, err := decodeCalls(envelope)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalidTxn, err)
	}
	for _, c := range calls {
		known := s.constraints[constraintKey{c.Name, c.Version}]
		if known == nil {
			return fmt.Errorf("%w: %s/v%d at the leader", ErrUnknownConstraint, c.Name, c.Version)
		}
		if level := s.FeatureLevel(); level < known.FeatureLevel {
			return fmt.Errorf("%w: %s/v%d needs feature level %d, and the mesh is at level %d", ErrUnknownConstraint, c.Name, c.Version, known.FeatureLevel, level)
		}
	}
	return nil
}

// isPermanent reports whether a retry cannot help. A context error does not count
// as permanent, because the timeout of a dial looks the same.
func isPermanent(err error) bool {
	for _, e := range []error{ErrInvalidTxn, ErrForbidden, ErrTooLarge, ErrUnknownConstraint, ErrFeatureLevel, ErrHeldUp, ErrHalted, ErrReplaced, ErrClosed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// giveUpError returns the error of a request that ended without an outcome.
func giveUpError(unsettled bool, err error) error {
	switch {
	case unsettled:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	case errors.Is(err, errNotLeader):
		return fmt.Errorf("%w: %w", ErrNoLeader, err)
	default:
		return err
	}
}

// pauseBeforeRetry waits before attempt n+1. The pause is short, and it ends as
// soon as the leader has changed since the last attempt began.
func (s *Store) pauseBeforeRetry(ctx context.Context, n int, changed <-chan struct{}) error {
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

// result converts an outcome to what Commit returns.
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

// validate refuses a malformed txn before it is proposed.
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

// refuseReserved refuses a txn of a caller that writes the feature level.
func (t *Txn) refuseReserved() error {
	if _, ok := t.raises(); ok {
		return fmt.Errorf("%w: key %s is written by RaiseFeatureLevel only", ErrInvalidTxn, levelKey)
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
