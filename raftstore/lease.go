package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Bounds of LeaseRequest.TTL.
const (
	MinLeaseTTL = time.Second
	MaxLeaseTTL = time.Minute
)

// LeasesPrefix is the prefix of the records that leases keep in the store: of the leader's reign, and
// of fences. Only leaders write them.
const LeasesPrefix = "/leases/"

// FencesPrefix is the prefix of the records of Fences.
const FencesPrefix = LeasesPrefix + "fences/"

// LeaseHolder is who holds a lease: one boot of a host. A later boot of the host is
// another holder, because nothing of the earlier boot runs any more.
type LeaseHolder struct {
	Host   string `json:"host"`
	BootID string `json:"bootID"`
}

// fenceKey is the key of the holder's fence.
func (h LeaseHolder) fenceKey() string { return FencesPrefix + h.Host + "/" + h.BootID }

// validate refuses a holder whose fence would have an ambiguous key.
func (h LeaseHolder) validate() error {
	for _, part := range []string{h.Host, h.BootID} {
		if part == "" || len(part) > 253 || strings.Contains(part, "/") {
			return fmt.Errorf("%w: holder of a lease: host %q, boot ID %q: each needs 1 to 253 bytes without /", ErrInvalidTxn, h.Host, h.BootID)
		}
	}
	return nil
}

// LeaseRequest asks for a lease or renews one.
type LeaseRequest struct {
	LeaseHolder
	// TTL is for how long the lease lasts, from MinLeaseTTL to MaxLeaseTTL.
	TTL time.Duration `json:"ttl"`
}

// validate refuses a malformed request.
func (r LeaseRequest) validate() error {
	if r.TTL < MinLeaseTTL || r.TTL > MaxLeaseTTL {
		return fmt.Errorf("%w: lease of host %s: TTL %s is not within %s..%s", ErrInvalidTxn, r.Host, r.TTL, MinLeaseTTL, MaxLeaseTTL)
	}
	return r.LeaseHolder.validate()
}

// Lease is the promise that the holder is not fenced before the lease expires.
type Lease struct {
	LeaseHolder
	// Expires is the time on the holder's clock, Config.BootTime, at which the lease
	// ends: TTL after the request was sent.
	Expires time.Duration
}

// LeaseState is a lease as the leader knows it.
type LeaseState struct {
	LeaseRequest
	// Left is how long the holder cannot be fenced yet; zero if it can.
	Left time.Duration `json:"left"`
}

// Fence is the record that a holder has no lease and never gets one again.
type Fence struct {
	LeaseHolder
	// Revision is the revision of the record.
	Revision uint64
}

// Holds returns the condition that the fence is recorded. A txn that may only happen
// after its holder was fenced needs this condition.
func (f Fence) Holds() Condition {
	return Condition{Key: f.fenceKey(), ModRevision: f.Revision}
}

// Answers of the leader.
type (
	renewalAnswer struct {
		Fenced bool `json:"fenced,omitempty"`
	}
	fenceAnswer struct {
		Revision uint64        `json:"revision,omitempty"`
		Left     time.Duration `json:"left,omitempty"`
	}
)

// RenewLease gets a lease, or renews it, and retries until ctx ends. It writes nothing to
// the log, so hosts may renew all the time; only the first renewal after a new leader was
// elected costs one entry for the whole group. After ErrFenced the holder gets no lease
// again, only its next boot does.
//
// The holder counts from the moment it sent the request, the leader from the moment it
// received it, and the leader waits a twentieth longer. So no holder is fenced while it
// believes that it holds its lease, if the rates of any two clocks differ by at most a
// twentieth.
func (s *Store) RenewLease(ctx context.Context, r LeaseRequest) (Lease, error) {
	lease := Lease{LeaseHolder: r.LeaseHolder}
	var answer renewalAnswer
	began := time.Now()
	err := s.retryAtLeader(ctx, func() error {
		sent := s.cfg.BootTime()
		answer = renewalAnswer{}
		if err := s.askLeases(ctx, opRenewLease, r, &answer); err != nil {
			return err
		}
		lease.Expires = sent + r.TTL
		if !answer.Fenced && s.cfg.BootTime() >= lease.Expires {
			return fmt.Errorf("%w: the lease expired before it arrived", errUnsettled)
		}
		return nil
	})
	if err == nil && answer.Fenced {
		err = ErrFenced
	}
	s.metrics.leases.observeRenewal(time.Since(began), lease, r.Host == s.cfg.NodeID, err)
	if err != nil {
		return Lease{}, fmt.Errorf("renew the lease of %s: %w", r.Host, err)
	}
	return lease, nil
}

// Fence records that a holder has no lease, once that is certain. Until then it fails with
// a *LeaseHeldError, which says how long that takes, and changes nothing. It succeeds
// again if the holder is fenced already. It retries until ctx ends.
//
// The record stays until somebody deletes it. That is safe as soon as the host has booted
// again or will never run again.
func (s *Store) Fence(ctx context.Context, h LeaseHolder) (Fence, error) {
	var answer fenceAnswer
	err := s.retryAtLeader(ctx, func() error {
		answer = fenceAnswer{}
		return s.askLeases(ctx, opFence, LeaseRequest{LeaseHolder: h}, &answer)
	})
	if err == nil && answer.Revision == 0 {
		err = &LeaseHeldError{LeaseHolder: h, Left: answer.Left}
	}
	s.metrics.leases.observeFence(err)
	if err != nil {
		return Fence{}, fmt.Errorf("fence %s: %w", h.Host, err)
	}
	return Fence{LeaseHolder: h, Revision: answer.Revision}, nil
}

// Leases returns the leases that the leader knows, those that have run out too, by host
// and boot ID. A new leader knows only the holders that have asked it since; until all
// earlier leases have run out, it fences none of the others either. Leases retries until
// ctx ends.
func (s *Store) Leases(ctx context.Context) ([]LeaseState, error) {
	var list []LeaseState
	err := s.retryAtLeader(ctx, func() error {
		list = nil
		return s.askLeases(ctx, opLeases, LeaseRequest{}, &list)
	})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return list, nil
}

// askLeases sends a request to the leader and decodes its answer.
func (s *Store) askLeases(ctx context.Context, op opcode, r LeaseRequest, answer any) error {
	payload, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	b, err := s.tryAtLeader(ctx, op, payload)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, answer); err != nil {
		return fmt.Errorf("%w: decode the leader's answer: %w", errUnsettled, err)
	}
	return nil
}

// LeaseHeldError says that the holder cannot be fenced yet, because its lease may still
// run. Find it with errors.As.
type LeaseHeldError struct {
	LeaseHolder
	// Left is how long that will be so if the lease is not renewed and the leader stays.
	Left time.Duration
}

// Error implements error.
func (e *LeaseHeldError) Error() string {
	return fmt.Sprintf("raftstore: the lease of host %s, boot %s, may run for %s more", e.Host, e.BootID, e.Left)
}

var _ error = (*LeaseHeldError)(nil)

// ErrFenced: the holder was fenced. It must stop what it held the lease for, and gets no
// lease again before it boots.
var ErrFenced = errors.New("raftstore: this boot of the host was fenced")
