package raftstore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
)

// A source offers a snapshot with the log index at which it ends. A follower that takes it
// continues there, and would wait for ever for entries behind an index that the group never
// reaches. So it takes none that ends behind what a majority of the voters has signed.

// checkReach returns an error unless a majority of the voters that this replica believes has
// signed a state at a log index, or at a later one. bundle is what came with the offer. If that
// says too little, the replica asks them.
func (s *Store) checkReach(ctx context.Context, index uint64, bundle []byte) error {
	if s.cfg.Signer == nil {
		return nil // it can check nothing, and was in the group before replicas followed
	}
	voters := s.believedVoters()
	if list, err := decodeBundle(bundle); len(bundle) > 0 && err == nil {
		if v, err := tally(list, s.group.current(), voters, s.cfg.Signer); err == nil {
			s.trust.keepAgreement(v)
		}
	}
	if s.signedTo() >= index {
		return nil
	}
	asked := s.addressesOf(voters)
	delete(asked, s.cfg.NodeID)
	defer func() {
		for _, addr := range asked {
			s.hangUp(addr)
		}
	}()
	v, err := tally(s.statementsOf(ctx, s.reachOf(ctx, voters, asked), asked), s.group.current(), voters, s.cfg.Signer)
	if err == nil {
		s.trust.keepAgreement(v)
	}
	if s.signedTo() >= index {
		return nil
	}
	return fmt.Errorf("%w: the voters %v have signed up to log index %d, not up to %d", errNotTaken, voters, s.signedTo(), index)
}

// signedTo returns the latest log index on which this replica knows the voters to agree.
func (s *Store) signedTo() uint64 {
	s.trust.mu.Lock()
	defer s.trust.mu.Unlock()
	return s.trust.newest.index
}

// reachOf returns the latest log index that a majority of the voters says it has applied, zero
// if too few answer.
func (s *Store) reachOf(ctx context.Context, voters []string, addresses map[string]string) uint64 {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC/4)
	defer cancel()
	var mu sync.Mutex
	var asking sync.WaitGroup
	var applied []uint64
	for _, node := range voters {
		addr, ok := addresses[node]
		if !ok {
			continue
		}
		asking.Go(func() {
			answer, err := s.peers.callHost(ctx, nil, node, addr, opStats, nil)
			var st stats
			if err != nil || json.Unmarshal(answer, &st) != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, st.Applied)
		})
	}
	asking.Wait()
	slices.Sort(applied)
	if need := len(voters)/2 + 1; len(applied) >= need {
		return applied[len(applied)-need]
	}
	return 0
}
