package raftstore

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// BeginFence judges, at the leader s, that the holder can be fenced, as Fence does. The
// returned function carries the fence out, however late.
func BeginFence(ctx context.Context, s *Store, h LeaseHolder) (func(at *Store) error, error) {
	t, err := s.reign(ctx, 0)
	if err != nil {
		return nil, err
	}
	answer, err := s.beginFence(t, h, s.cfg.BootTime())
	if err != nil || answer != (fenceAnswer{}) {
		return nil, errors.Join(err, &LeaseHeldError{h, answer.Left})
	}
	return func(at *Store) error {
		_, err := at.Commit(ctx, fenceTxn(t, h))
		s.endFence(t, h, err)
		return err
	}, nil
}

// LoseFence lets the leader take a fence for one whose outcome is unknown.
func LoseFence(ctx context.Context, s *Store, h LeaseHolder) error {
	t, err := s.reign(ctx, 0)
	if err == nil {
		s.endFence(t, h, ErrUnknownOutcome)
	}
	return err
}

// TestNobodyRenewsTheLeaseOfAnother: whoever could would keep the machines of a dead host from
// being started elsewhere.
func TestNobodyRenewsTheLeaseOfAnother(t *testing.T) {
	s := &Store{cfg: DefaultConfig()}
	payload, err := json.Marshal(LeaseRequest{LeaseHolder{"host1", "boot1"}, MinLeaseTTL})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.serveLeases(t.Context(), "host2", opRenewLease, payload); !errors.Is(err, ErrInvalidTxn) || !strings.Contains(err.Error(), "host2") {
		t.Errorf("host2 renews the lease of host1: %v", err)
	}
}

// TestPeersLeaseRequestsAreValidated: a peer may be of another version.
func TestPeersLeaseRequestsAreValidated(t *testing.T) {
	s := &Store{cfg: DefaultConfig()}
	for _, op := range []opcode{opRenewLease, opFence} {
		for _, r := range []LeaseRequest{{TTL: MinLeaseTTL}, {LeaseHolder{"host1", "../boot"}, MinLeaseTTL}} {
			payload, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.serveLeases(t.Context(), "", op, payload); !errors.Is(err, ErrInvalidTxn) {
				t.Errorf("request %d of %+v: %v", op, r, err)
			}
		}
	}
	if _, err := s.serveLeases(t.Context(), "", opRenewLease, []byte("{")); !errors.Is(err, ErrInvalidTxn) {
		t.Errorf("a malformed request: %v", err)
	}
}

// TestReignKeepsFieldsOfANewerVersion: a leader of this version that follows one of a
// newer version drops nothing that the newer one noted for its successors.
func TestReignKeepsFieldsOfANewerVersion(t *testing.T) {
	for last, want := range map[string]string{
		``:                       `{"term":7,"longest":3}`,
		`{"term":5,"longest":9}`: `{"longest":3,"term":7}`,
		`{"term":5,"longest":9,"newer":[18446744073709551615,{"a":1.50}]}`: `{"longest":3,"newer":[18446744073709551615,{"a":1.50}],"term":7}`,
	} {
		got, err := reignRecord{Term: 7, Longest: 3}.encodeOver([]byte(last))
		if err != nil || string(got) != want {
			t.Errorf("over %q: %s (%v), want %s", last, got, err, want)
		}
	}
}
