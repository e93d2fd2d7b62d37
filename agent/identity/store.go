package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"virtmesh/agent/hostname"
	"virtmesh/agent/skew"
	"virtmesh/raftstore"
)

// Store is the part of the replicated store that this package uses; *raftstore.Store
// implements it.
type Store interface {
	Commit(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error)
	Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error)
	List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error)
}

// Keys in the replicated store.
const (
	// KeyCA holds the CARecord.
	KeyCA = "/mesh/ca"
	// KeyGossip holds the GossipRecord.
	KeyGossip = "/mesh/gossip"
	// KeyBundles holds the BundlesRecord.
	KeyBundles = "/mesh/bundles"
	// KeyDemoted holds the DemotedRecord.
	KeyDemoted = "/mesh/demoted"
	// HostsPrefix, followed by the host name, holds a HostRecord.
	HostsPrefix = "/mesh/hosts/"
	// TokensPrefix, followed by the token id, holds a TokenRecord.
	TokensPrefix = "/mesh/tokens/"
	// ExpelledPrefix, followed by the host name, marks a name whose host was expelled,
	// until another machine takes the name.
	ExpelledPrefix = "/mesh/expelled/"
	// DepartedPrefix, followed by a host ID, marks a membership that has ended. The
	// mark is never deleted, because host IDs are never used again.
	DepartedPrefix = "/mesh/departed/"
)

// ErrNotSeeded is returned while the replicated store does not hold the CA: the mesh's
// first host has not put it there yet, or this replica has not caught up.
var ErrNotSeeded = errors.New("the mesh CA is not in the replicated store yet")

// MaxAddresses is how many addresses of its interfaces a HostRecord may hold.
const MaxAddresses = 64

// HostRecord makes a host a member. The certificate of a host without a record is not
// renewed.
type HostRecord struct {
	Name string `json:"name"`
	// ID belongs to the machine that has the name now. A certificate of the mesh with
	// the same name and another ID belongs to a machine that had the name earlier.
	ID            string   `json:"id"`
	MeshAddress   string   `json:"meshAddress"`
	GossipAddress string   `json:"gossipAddress"`
	SANs          []string `json:"sans,omitempty"`
	// Addresses are the IPv4 addresses that the host says its interfaces have, from which
	// the other hosts keep their guests away.
	Addresses []netip.Addr `json:"addresses,omitempty"`
	// KeyPin is the pin of the host's key: of the one that it joined with, and if KeyKept
	// is true, of the only one that it has for as long as it is a member. Hosts of versions
	// before level.Apart made a new key with each certificate.
	KeyPin  string `json:"keyPin"`
	KeyKept bool   `json:"keyKept,omitempty"`
	// TokenID is the token that the host joined with; empty for the first host.
	TokenID      string    `json:"tokenID,omitempty"`
	Version      string    `json:"version,omitempty"`
	FeatureLevel uint32    `json:"featureLevel,omitempty"`
	Joined       time.Time `json:"joined"`
}

// Validate says which field of a record is missing or malformed.
func (r HostRecord) Validate() error {
	if err := hostname.Validate(r.Name); err != nil {
		return err
	}
	if err := ValidateAddress(r.MeshAddress); err != nil {
		return fmt.Errorf("mesh %w", err)
	}
	if err := ValidateAddress(r.GossipAddress); err != nil {
		return fmt.Errorf("gossip %w", err)
	}
	if len(r.SANs) > maxSANs-1 { // the mesh address is one more
		return fmt.Errorf("%d additional names, at most %d are allowed", len(r.SANs), maxSANs-1)
	}
	if len(r.Addresses) > MaxAddresses {
		return fmt.Errorf("%d addresses, at most %d are allowed", len(r.Addresses), MaxAddresses)
	}
	for _, san := range r.SANs {
		if err := ValidateSAN(san); err != nil {
			return fmt.Errorf("additional name: %w", err)
		}
	}
	return nil
}

// HostKey returns the key of a host's record.
func HostKey(host string) string { return HostsPrefix + host }

// TokenKey returns the key of a token's record.
func TokenKey(id string) string { return TokensPrefix + id }

// Node returns the name and ID that the host's certificates carry.
func (r HostRecord) Node() Node { return Node{Name: r.Name, ID: r.ID} }

// Seed returns where the host can be reached, and who it is if it keeps its key.
func (r HostRecord) Seed() Seed {
	seed := Seed{Host: r.Name, MeshAddress: r.MeshAddress, GossipAddress: r.GossipAddress}
	if r.KeyKept {
		seed.HostID, seed.KeyPin = r.ID, r.KeyPin
	}
	return seed
}

func expelledKey(host string) string { return ExpelledPrefix + host }

func departedKey(id string) string { return DepartedPrefix + id }

// unreadableError says that a record is there and cannot be decoded: it is spoilt, or of a version
// that writes it differently.
type unreadableError struct {
	key   string
	cause error
}

// Error names the record.
func (e *unreadableError) Error() string {
	return fmt.Sprintf("the record %s cannot be read: %v", e.key, e.cause)
}

// Unwrap returns why.
func (e *unreadableError) Unwrap() error { return e.cause }

func isUnreadable(err error) bool {
	var unreadable *unreadableError
	return errors.As(err, &unreadable)
}

// readJSON reads a record into value and returns it as it is stored, also with an
// unreadableError.
func readJSON(ctx context.Context, s Store, key string, opts raftstore.ReadOptions, value any) (raftstore.Record, error) {
	rec, _, err := s.Get(ctx, key, opts)
	if err != nil {
		return raftstore.Record{}, fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(rec.Value, value); err != nil {
		return rec, &unreadableError{key, err}
	}
	return rec, nil
}

// rewriteOp returns the op that stores value as JSON in place of a record. What a newer
// version wrote into the record, and T does not have, stays.
func rewriteOp[T any](stored raftstore.Record, value T) (raftstore.Op, error) {
	data, err := skew.Rewrite(stored.Value, value)
	if err != nil {
		return raftstore.Op{}, fmt.Errorf("encode %s: %w", stored.Key, err)
	}
	return raftstore.Op{Key: stored.Key, Value: data}, nil
}

// putOp returns the op that stores value as JSON, a record that replaces none.
func putOp(key string, value any) (raftstore.Op, error) {
	data, err := json.Marshal(value)
	if err != nil {
		return raftstore.Op{}, fmt.Errorf("encode %s: %w", key, err)
	}
	return raftstore.Op{Key: key, Value: data}, nil
}
