package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"
)

// Renewals are not logged, so only the leader that received them knows of them. Before it
// answers the first one, a leader records a reign, and the txn of a fence is conditional
// on the record of the reign in which the lease was found to have run out. If another
// leader has answered renewals meanwhile, or this one in a later term, there is another
// record, and every replica refuses the fence.

// reignKey is the key of the record of the latest reign.
const reignKey = LeasesPrefix + "reign"

// reignRecord is the record of a reign.
type reignRecord struct {
	Term uint64 `json:"term"`
	// Longest is the longest TTL that any leader has granted so far.
	Longest time.Duration `json:"longest"`
}

// encodeOver returns the value that replaces the record of the last reign. Fields that a
// leader of a newer version wrote stay.
func (r reignRecord) encodeOver(last []byte) ([]byte, error) {
	value, err := json.Marshal(r)
	if err != nil || len(last) == 0 {
		return value, err
	}
	fields := map[string]json.RawMessage{}
	for _, text := range [][]byte{last, value} {
		if err := json.Unmarshal(text, &fields); err != nil {
			return nil, err
		}
	}
	return json.Marshal(fields)
}

// leases are the leases that this replica gives while it leads.
type leases struct {
	beginning chan struct{} // held by whoever begins a reign

	mu    sync.Mutex  // nothing waits while it is held, not even for the clock
	table *leaseTable // of the reign; nil if none was begun
}

func newLeases() *leases { return &leases{beginning: make(chan struct{}, 1)} }

// current returns the reign of a term if it may grant leases of ttl, else nil.
func (l *leases) current(term uint64, ttl time.Duration) *leaseTable {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.table; t != nil && t.term == term && t.longest >= ttl {
		return t
	}
	return nil
}

// end ends a reign, if it is the present one.
func (l *leases) end(t *leaseTable) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.table == t {
		l.table = nil
	}
}

// setTable begins a reign, or none.
func (l *leases) setTable(t *leaseTable) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.table = t
}

// errReignOver: another reign has begun since the request arrived.
var errReignOver = fmt.Errorf("%w: another reign has begun", errNotLeader)

// serveLeases carries out a request that concerns leases. Only the leader calls it.
func (s *Store) serveLeases(ctx context.Context, caller string, op opcode, payload []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timing.RPC)
	defer cancel()
	var r LeaseRequest
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalidTxn, err)
	}
	var answer any
	var err error
	switch op {
	case opRenewLease:
		if err = refuseOther(caller, r.Host); err == nil {
			answer, err = s.serveRenewal(ctx, r)
		}
	case opFence:
		answer, err = s.serveFence(ctx, r.LeaseHolder)
	default:
		answer, err = s.serveLeaseList(ctx)
	}
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

// reign returns the reign of this leader, and begins one if there is none that may grant
// leases of ttl.
func (s *Store) reign(ctx context.Context, ttl time.Duration) (*leaseTable, error) {
	term, err := s.termReady()
	if err != nil {
		return nil, err
	}
	if t := s.leases.current(term, ttl); t != nil {
		return t, nil
	}
	select {
	case s.leases.beginning <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNotLeader, ctx.Err())
	}
	defer func() { <-s.leases.beginning }()
	if t := s.leases.current(term, ttl); t != nil {
		return t, nil
	}
	return s.beginReign(ctx, term, ttl)
}

// beginReign records a reign. A leader that is ready has applied what earlier leaders
// committed, so it knows their last record, and their fences.
func (s *Store) beginReign(ctx context.Context, term uint64, ttl time.Duration) (*leaseTable, error) {
	s.leases.setTable(nil) // what it does not know must have been received before began
	var before reignRecord
	last, ok := s.history.current().tree.Get(&stored{key: reignKey})
	if !ok {
		last = &stored{}
	} else if err := json.Unmarshal(last.value.value(), &before); err != nil {
		return nil, fmt.Errorf("decode the record of the last reign: %w", err)
	}
	longest := max(ttl, before.Longest)
	value, err := reignRecord{Term: term, Longest: longest}.encodeOver(last.value.value())
	if err != nil {
		return nil, fmt.Errorf("encode the record of a reign: %w", err)
	}
	result, err := s.Commit(ctx, Txn{
		If:  []Condition{{reignKey, last.modRevision}},
		Ops: []Op{{Key: reignKey, Value: value}},
	})
	if err != nil {
		return nil, fmt.Errorf("%w: begin a reign: %w", errNotLeader, err)
	}
	t := &leaseTable{
		term: term, revision: result.Revision, longest: longest, began: s.cfg.BootTime(),
		held: make(map[LeaseHolder]heldLease), fencing: make(map[LeaseHolder]int),
	}
	s.leases.setTable(t)
	s.metrics.leases.reigns.Inc()
	return t, nil
}

// serveRenewal answers a renewal after a majority of the voters has confirmed that, after
// the renewal had arrived, no other leader had been elected. So a leader that is elected
// later begins its reign after the renewal was sent.
func (s *Store) serveRenewal(ctx context.Context, r LeaseRequest) (renewalAnswer, error) {
	received := s.cfg.BootTime()
	if err := r.validate(); err != nil {
		return renewalAnswer{}, err
	}
	t, err := s.reign(ctx, r.TTL)
	if err != nil {
		return renewalAnswer{}, err
	}
	if fenced, err := s.noteRenewal(t, r, received); fenced || err != nil {
		return renewalAnswer{Fenced: fenced}, err
	}
	if _, err := s.served.joinRound(ctx); err != nil {
		return renewalAnswer{}, err
	}
	// The round began in the term of the reign or in a later one.
	if !s.leads(t.term) {
		return renewalAnswer{}, errReignOver
	}
	return renewalAnswer{}, nil
}

// noteRenewal notes a renewal. It returns true if the holder is fenced.
func (s *Store) noteRenewal(t *leaseTable, r LeaseRequest, received time.Duration) (fenced bool, err error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	switch {
	case s.leases.table != t:
		return false, errReignOver
	case s.fenceOf(r.LeaseHolder) != nil:
		return true, nil
	case t.fencing[r.LeaseHolder] > 0:
		return false, fmt.Errorf("%w: the holder is being fenced", errNotLeader)
	}
	if late := t.renew(r, received); late {
		s.metrics.leases.late.Inc()
	}
	return false, nil
}

// fenceOf returns the record of the holder's fence, nil if it is not fenced.
func (s *Store) fenceOf(h LeaseHolder) *stored {
	r, _ := s.history.current().tree.Get(&stored{key: h.fenceKey()})
	return r
}

// serveFence fences a holder if its lease has run out.
func (s *Store) serveFence(ctx context.Context, h LeaseHolder) (fenceAnswer, error) {
	if err := h.validate(); err != nil {
		return fenceAnswer{}, err
	}
	t, err := s.reign(ctx, 0)
	if err != nil {
		return fenceAnswer{}, err
	}
	now := s.cfg.BootTime()
	answer, err := s.beginFence(t, h, now)
	if err != nil || answer != (fenceAnswer{}) {
		return answer, err
	}
	result, err := s.Commit(ctx, fenceTxn(t, h))
	s.endFence(t, h, err)
	if err != nil {
		return fenceAnswer{}, fmt.Errorf("%w: %w", errNotLeader, err)
	}
	return fenceAnswer{Revision: result.Revision}, nil
}

// fenceTxn returns the txn that fences a holder whose lease was found to have run out.
func fenceTxn(t *leaseTable, h LeaseHolder) Txn {
	return Txn{
		If:  []Condition{{reignKey, t.revision}, {h.fenceKey(), 0}},
		Ops: []Op{{Key: h.fenceKey(), Value: []byte("{}")}},
	}
}

// beginFence marks a holder whose lease has run out, so that it gets none while the txn of
// its fence is under way. It answers at once if the holder is fenced, or if its lease
// may still run.
func (s *Store) beginFence(t *leaseTable, h LeaseHolder, now time.Duration) (fenceAnswer, error) {
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if s.leases.table != t {
		return fenceAnswer{}, errReignOver
	}
	if r := s.fenceOf(h); r != nil {
		return fenceAnswer{Revision: r.modRevision}, nil
	}
	if left := t.left(h, now); left > 0 {
		return fenceAnswer{Left: left}, nil
	}
	t.fencing[h]++
	return fenceAnswer{}, nil
}

// endFence removes the mark. If the txn may still happen, the reign ends, and with it
// every txn that is conditional on it.
func (s *Store) endFence(t *leaseTable, h LeaseHolder, err error) {
	var conflict *ConflictError
	if err != nil && !(errors.As(err, &conflict) && conflict.Key == h.fenceKey()) {
		s.leases.end(t)
	}
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if t.fencing[h]--; t.fencing[h] == 0 {
		delete(t.fencing, h)
	}
	if err == nil {
		delete(t.held, h)
	}
}

// serveLeaseList returns the leases of this reign, after the leadership was confirmed.
func (s *Store) serveLeaseList(ctx context.Context) ([]LeaseState, error) {
	if _, err := s.served.joinRound(ctx); err != nil {
		return nil, err
	}
	term, now := s.readyTerm.Load(), s.cfg.BootTime()
	s.leases.mu.Lock()
	defer s.leases.mu.Unlock()
	if t := s.leases.table; t != nil && t.term == term {
		return t.list(now), nil
	}
	return []LeaseState{}, nil // nobody has asked for one yet
}
