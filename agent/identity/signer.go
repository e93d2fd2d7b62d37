package identity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// Signer signs certificates with the CA from the local replica of the store, or, where that
// does not have the CA's key, with the key in this host's keyring. Every host has one; one
// without a key passes on what it is asked. It is safe for concurrent use.
type Signer struct {
	store    Store
	lifetime time.Duration
	patience time.Duration
	// unchanged is how long a token has been as it is.
	unchanged func(TokenRecord) time.Duration
	// held returns the key of a CA in this host's keyring; nil: it has no keyring.
	held func(Pin) []byte
	// voters sign what this host cannot sign; nil if nobody does.
	voters Authority
	// keepsKeys reports whether hosts keep their keys.
	keepsKeys func() bool
	// ownRecords reports whether each host alone changes its record.
	ownRecords func() bool
	// votes returns the names of the hosts that vote, as this host's copy has them.
	votes func() []string
	// trust returns the CAs that this host trusts; nil: those in the record.
	trust func() []byte
	// isImpostor reports whether another machine has the name of this one, and votes.
	isImpostor func(Node, Pin) bool
}

// defaultPatience bounds how long a signer waits for a linearizable read.
const defaultPatience = 2 * time.Second

// NewSigner returns a Signer whose host certificates are valid for lifetime; zero
// stands for DefaultNodeLifetime.
func NewSigner(store Store, lifetime time.Duration) *Signer {
	if lifetime <= 0 {
		lifetime = DefaultNodeLifetime
	}
	return &Signer{store: store, lifetime: lifetime, patience: defaultPatience, unchanged: stampedAge,
		votes: func() []string { return nil }, keepsKeys: func() bool { return false }, ownRecords: func() bool { return false },
		isImpostor: func(Node, Pin) bool { return false }}
}

// WithTokenAges returns a Signer that asks unchanged for how long a token has been as it is,
// unused or used. Without, it compares the times in the record, which come from the clocks of
// other hosts, with the clock of this one.
func (s *Signer) WithTokenAges(unchanged func(TokenRecord) time.Duration) *Signer {
	measuring := *s
	measuring.unchanged = unchanged
	return &measuring
}

// WithKeptKeys returns a Signer that notes in the records of hosts that it admits that they
// keep their keys, if keepsKeys reports that all hosts of the mesh do; it must not block.
func (s *Signer) WithKeptKeys(keepsKeys func() bool) *Signer {
	keeping := *s
	keeping.keepsKeys = keepsKeys
	return &keeping
}

// WithOwnRecords returns a Signer that leaves the record of a host that repeats its request to join
// as it is, if ownRecords reports that each host alone changes its record, see Hosts.MayChange; it
// must not block.
func (s *Signer) WithOwnRecords(ownRecords func() bool) *Signer {
	leaving := *s
	leaving.ownRecords = ownRecords
	return &leaving
}

// WithVotes returns a Signer that admits nobody under the name of a host that votes. votes
// returns their names; it must not block.
func (s *Signer) WithVotes(votes func() []string) *Signer {
	watchful := *s
	watchful.votes = votes
	return &watchful
}

// RenewHost signs csr (DER) for a member. The caller must have verified that the
// request comes from node. The names in the certificate are those of the host's record.
// A host without a record gets fault.NoHost, a machine whose name now belongs to another
// machine gets fault.Expelled, and one that asks for another key than its host keeps gets
// ErrOtherKey.
//
// RenewHost reads the record linearizably if the store answers soon, and otherwise from
// the local replica. A mesh that lost its quorum, or was switched off for longer than
// its certificates are valid, must still be able to renew them; otherwise it could
// never recover.
func (s *Signer) RenewHost(ctx context.Context, node Node, csr []byte) (Issued, error) {
	pub, err := ParseCSR(csr)
	if err != nil {
		return Issued{}, err
	}
	// The key comes first: a host that does not hold it need not wait for the group.
	if _, _, err := s.ca(ctx, raftstore.ReadOptions{Consistency: raftstore.Local}); errors.Is(err, ErrNoCAKey) {
		return Issued{}, fmt.Errorf("sign certificate of %s: %w", node.Name, err)
	}
	rec, opts, err := s.member(ctx, node)
	if err != nil {
		return Issued{}, fmt.Errorf("sign certificate of %s: %w", node.Name, err)
	}
	pin, err := PinOfKey(pub)
	if err == nil {
		err = errors.Join(rec.CheckKey(pin), s.refuseImpostor(node, pin))
	}
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

// member returns the record of a host, and the read options with which it could be
// read. It returns fault.NoHost and fault.Expelled only after a linearizable read: a
// local replica that has no record of the host, or the record of another machine with
// its name, may just be out of date.
func (s *Signer) member(ctx context.Context, node Node) (HostRecord, raftstore.ReadOptions, error) {
	hosts := NewHosts(s.store)
	soon, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	rec, err := hosts.Get(soon, node.Name, raftstore.ReadOptions{})
	switch {
	case err == nil && rec.ID != node.ID:
		return rec, raftstore.ReadOptions{}, expelledFault(node)
	case errors.Is(err, fault.NoHost):
		err = unknownFault(node)
		// If the host was expelled and no other machine took its name, report that.
		if _, mark, markErr := hosts.departed(soon, node, raftstore.ReadOptions{}); markErr == nil && mark.Expelled {
			err = expelledFault(node)
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

// CARecord returns the mesh's CA, linearizably if the store answers soon, and otherwise as this
// host's copy has it.
func (s *Signer) CARecord(ctx context.Context) (CARecord, error) {
	soon, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	rec, _, err := readCA(soon, s.store, raftstore.ReadOptions{})
	if err != nil && ctx.Err() == nil {
		rec, _, err = readCA(ctx, s.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	}
	rec.Key = nil
	return rec, err
}

func (s *Signer) ca(ctx context.Context, opts raftstore.ReadOptions) (*CA, []byte, error) {
	rec, _, err := readCA(ctx, s.store, opts)
	if err != nil {
		return nil, nil, err
	}
	key := rec.Key
	if len(key) == 0 && s.held != nil {
		pin, err := rec.pin()
		if err != nil {
			return nil, nil, err
		}
		key = s.held(pin)
	}
	if len(key) == 0 {
		return nil, nil, ErrNoCAKey
	}
	ca, err := ParseCA(rec.Certificate, key)
	if err != nil {
		return nil, nil, err
	}
	ca.successors = rec.successors(time.Now())
	bundle, err := s.trustedBy(rec)
	return ca, bundle, err
}
