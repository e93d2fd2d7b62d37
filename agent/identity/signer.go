package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// Signer signs certificates with the CA that the local replica of the store holds.
// Every host has one. It is safe for concurrent use.
type Signer struct {
	store    Store
	lifetime time.Duration
	patience time.Duration
}

// defaultPatience is how long a signer waits for a linearizable read.
const defaultPatience = 2 * time.Second

// NewSigner returns a Signer whose host certificates live for lifetime; zero stands for
// DefaultNodeLifetime.
func NewSigner(store Store, lifetime time.Duration) *Signer {
	if lifetime <= 0 {
		lifetime = DefaultNodeLifetime
	}
	return &Signer{store: store, lifetime: lifetime, patience: defaultPatience}
}

// RenewHost signs csr (DER) for a member. The caller has made sure that the node asks.
// The names in the certificate are those of the host's record; a host without one gets
// fault.NoHost, and one whose name has passed to another machine fault.Expelled.
//
// The record is read linearizably if the store answers soon, and else from the local
// replica: a mesh that lost its quorum, or was switched off for longer than its
// certificates live, must be able to renew them, or it could never come back.
func (s *Signer) RenewHost(ctx context.Context, node Node, csr []byte) (Issued, error) {
	pub, err := ParseCSR(csr)
	if err != nil {
		return Issued{}, err
	}
	rec, opts, err := s.member(ctx, node)
	if err != nil {
		return Issued{}, fmt.Errorf("sign certificate of %s: %w", node.Name, err)
	}
	ca, bundle, err := s.ca(ctx, opts)
	if err != nil {
		return Issued{}, fmt.Errorf("sign certificate of %s: %w", node.Name, err)
	}
	chain, err := ca.IssueNode(pub, node, NodeSANs(rec.MeshAddress, rec.SANs), s.lifetime)
	if err != nil {
		return Issued{}, err
	}
	return Issued{Chain: chain, CABundle: bundle}, nil
}

// For returns the Issuer that renews a host through this signer.
func (s *Signer) For(node Node) Issuer {
	return IssuerFunc(func(ctx context.Context, csr []byte) (Issued, error) {
		return s.RenewHost(ctx, node, csr)
	})
}

// CA returns the mesh CA and the bundle of CAs to trust, linearizably.
func (s *Signer) CA(ctx context.Context) (*CA, []byte, error) {
	return s.ca(ctx, raftstore.ReadOptions{})
}

// member returns the record of a host and how fresh it could be read. fault.NoHost and
// fault.Expelled are certain: a local replica that knows nothing of the host, or another
// machine of its name, proves nothing.
func (s *Signer) member(ctx context.Context, node Node) (HostRecord, raftstore.ReadOptions, error) {
	hosts := NewHosts(s.store)
	soon, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	rec, err := hosts.Get(soon, node.Name, raftstore.ReadOptions{})
	switch {
	case err == nil && rec.ID != node.ID:
		return rec, raftstore.ReadOptions{}, expelled(node)
	case errors.Is(err, fault.NoHost):
		// It may have been removed before anybody took its name: then say so.
		if _, forced, markErr := hosts.departed(soon, node, raftstore.ReadOptions{}); markErr == nil && forced {
			err = expelled(node)
		}
		return rec, raftstore.ReadOptions{}, err
	case err == nil || ctx.Err() != nil:
		return rec, raftstore.ReadOptions{}, err
	}
	local := raftstore.ReadOptions{Consistency: raftstore.Local}
	rec, localErr := hosts.Get(ctx, node.Name, local)
	if localErr == nil && rec.ID == node.ID {
		err = nil
	}
	return rec, local, err
}

func (s *Signer) ca(ctx context.Context, opts raftstore.ReadOptions) (*CA, []byte, error) {
	var rec CARecord
	_, err := readJSON(ctx, s.store, KeyCA, opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		return nil, nil, ErrNotSeeded
	}
	if err != nil {
		return nil, nil, err
	}
	ca, err := ParseCA(rec.Certificate, rec.Key)
	if err != nil {
		return nil, nil, err
	}
	return ca, rec.Bundle, nil
}
