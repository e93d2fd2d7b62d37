package raftstore

import (
	"context"
	"errors"
	"fmt"
)

// requestAtLeader sends a request to the leader, or serves it if this replica leads.
// It retries until ctx ends. The request must be safe to repeat.
func (s *Store) requestAtLeader(ctx context.Context, op opcode, payload []byte) (answer []byte, err error) {
	err = s.retryAtLeader(ctx, func() error {
		answer, err = s.tryAtLeader(ctx, op, payload)
		return err
	})
	return answer, err
}

// retryAtLeader repeats a request to the leader until it is carried out or refused, or ctx
// ends.
func (s *Store) retryAtLeader(ctx context.Context, attempt func() error) error {
	for n := 0; ; n++ {
		changed := s.leaderChange.wait()
		err := attempt()
		if err == nil {
			return nil
		}
		if isPermanent(err) || !(errors.Is(err, errNotLeader) || errors.Is(err, errUnsettled)) {
			return err
		}
		if werr := s.pauseBeforeRetry(ctx, n, changed); werr != nil {
			return fmt.Errorf("%w: %w: last attempt: %w", ErrNoLeader, werr, err)
		}
	}
}

// tryAtLeader makes one attempt. It ends early when another leader is known.
func (s *Store) tryAtLeader(ctx context.Context, op opcode, payload []byte) ([]byte, error) {
	leader := s.leader()
	switch leader.id {
	case "":
		return nil, s.noLeader()
	case s.id:
		return s.serveLeaderRequest(ctx, "", op, payload)
	default:
		return s.peers.callLeader(ctx, leader, op, payload)
	}
}

// noLeader returns why no request can be sent: this replica knows no leader.
func (s *Store) noLeader() error {
	if err := s.versionTooOld(); err != nil {
		return fmt.Errorf("%w: %w", errNotLeader, err)
	}
	return errNotLeader
}
