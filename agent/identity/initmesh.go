package identity

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"time"

	"virtmesh/agent/hostname"
	"virtmesh/agent/hostseal"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
	"virtmesh/storage/durable"
)

// InitOptions describe the first host of a new mesh.
type InitOptions struct {
	// Host is the name of the host.
	Host string
	// MeshAddress and GossipAddress are what other hosts dial, "host:port".
	MeshAddress, GossipAddress string
	// SANs are more names and addresses by which API clients know the host.
	SANs []string
	// Lifetime is how long the host's certificate is valid; zero stands for
	// DefaultNodeLifetime.
	Lifetime time.Duration
	// KeepBundle writes the recovery bundle of the new mesh to where it is kept; nil: none is
	// made now. With it, the key of the CA never gets into the replicated state. It is called
	// before the host becomes a member, and its error keeps it from becoming one.
	KeepBundle func(Bundle) error
	// Seals seal the keyring of the host; nil: it is written in clear.
	Seals *hostseal.Seals
}

// ValidateAddress returns an error if addr is not a "host:port" that other hosts can
// dial.
func ValidateAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %q: want host:port", hostname.Clip(addr))
	}
	n, err := net.LookupPort("tcp", port)
	if err != nil || n == 0 {
		return fmt.Errorf("address %q: bad port", hostname.Clip(addr))
	}
	if err := ValidateSAN(host); err != nil {
		return fmt.Errorf("address %q: others cannot dial it: %w", hostname.Clip(addr), err)
	}
	return nil
}

// NodeSANs returns the names and addresses for a host's certificate: the requested ones
// and the host part of its mesh address.
func NodeSANs(meshAddress string, sans []string) []string {
	out := slices.Clone(sans)
	host, _, err := net.SplitHostPort(meshAddress)
	if err == nil && !slices.Contains(out, host) {
		out = append(out, host)
	}
	return out
}

// Validate says what is missing or malformed.
func (o InitOptions) Validate() error {
	rec := HostRecord{Name: o.Host, MeshAddress: o.MeshAddress, GossipAddress: o.GossipAddress, SANs: o.SANs}
	if err := rec.Validate(); err != nil {
		return err
	}
	if o.Lifetime < 0 {
		return errors.New("the lifetime of a certificate must be positive")
	}
	return nil
}

// InitMesh makes a new mesh with this host as its first member. It writes a CA, a key for
// Secrets, a gossip key and a certificate to the identity folder of the state directory, or
// nothing on an error. It fails with ErrInitialised if the directory already holds an
// identity. The caller can sign with the returned CA before a replicated store exists.
func InitMesh(dir string, opts InitOptions) (*CA, error) {
	if err := opts.Validate(); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	if err := checkNew(dir); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	ca, st, err := newMesh(opts)
	if err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	if opts.KeepBundle != nil {
		bundle, err := newBundle(st.Info.MeshID, st.CABundle, st.CAKey, st.SecretKeys)
		if err == nil {
			st.Bundle, err = keepFirstBundle(ca, bundle, opts)
		}
		if err != nil {
			return nil, fmt.Errorf("init: %w", err)
		}
	}
	st.Seals = opts.Seals
	if err := CreateState(dir, st); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	return ca, nil
}

// keepFirstBundle has the recovery bundle of a new mesh written, and returns its note.
func keepFirstBundle(ca *CA, bundle Bundle, opts InitOptions) (*BundleMade, error) {
	if err := bundle.AddRecipient(); err != nil {
		return nil, err
	}
	if err := opts.KeepBundle(bundle); err != nil {
		return nil, err
	}
	note := &BundleMade{CAPin: ca.Pin().String(), Made: bundle.Made, Host: opts.Host, Number: 1}
	var err error
	if note.SecretKeys, err = bundle.SecretKeyIDs(); err != nil {
		return nil, err
	}
	if note.Recipient, err = bundle.Recipient(); err != nil {
		return nil, err
	}
	note.BackupRecipient, err = BackupRecipient(bundle.CAKey)
	return note, err
}

func newMesh(opts InitOptions) (*CA, State, error) {
	var meshID [8]byte
	node := NewNode(opts.Host)
	rand.Read(meshID[:])
	st := State{
		Info: Info{
			MeshID: hex.EncodeToString(meshID[:]), Host: node.Name, HostID: node.ID, MeshAddress: opts.MeshAddress,
			GossipAddress: opts.GossipAddress, SANs: opts.SANs, Joined: time.Now().UTC(),
		},
		GossipKeys: [][]byte{newGossipKey()},
		Founder:    true,
	}
	ca, err := NewCA(st.Info.MeshID)
	if err != nil {
		return nil, State{}, err
	}
	st.CABundle = ca.CertificatePEM()
	if st.CAKey, err = ca.KeyPEM(); err != nil {
		return nil, State{}, err
	}
	secrets, err := sealed.NewKey()
	if err != nil {
		return nil, State{}, err
	}
	st.SecretKeys = []sealed.PrivateKey{secrets}
	key, err := NewKey()
	if err != nil {
		return nil, State{}, err
	}
	if st.Key, err = EncodeKey(key); err != nil {
		return nil, State{}, err
	}
	lifetime := opts.Lifetime
	if lifetime == 0 {
		lifetime = DefaultNodeLifetime
	}
	st.Chain, err = ca.IssueNode(&key.PublicKey, node, NodeSANs(opts.MeshAddress, opts.SANs), lifetime)
	return ca, st, err
}

// Founder reports whether this is the first host of a mesh whose CA is not in the
// replicated store yet, so that Seed must still run. Until then no other host can have
// joined, so an empty store on this host is a new mesh and not a lost copy.
func (i *Identity) Founder() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.founder
}

// Seed writes what InitMesh made to the replicated store: the CA, the gossip keys and
// the record of the first host, in one transaction. The agent calls it at every start
// of a founder, once the store answers. It may be interrupted at any point and called
// again.
func (i *Identity) Seed(ctx context.Context, store Store, version string, featureLevel uint32) error {
	if !i.Founder() {
		return nil
	}
	bundle, err := readSeed(i.dir)
	if err == nil {
		err = i.commitSeed(ctx, store, bundle, version, featureLevel)
	}
	if err != nil {
		return fmt.Errorf("seed mesh: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := os.Remove(i.path(fileSeed)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("seed mesh: %w", err)
	}
	i.founder = false
	return durable.Sync(i.path(""))
}

// commitSeed writes the first records. A mesh whose recovery bundle was made with it begins
// with its keys in the keyring of this host, its only voter, and with encrypted Secrets; the feature level that
// it begins at is the highest that this version knows, so all its hosts know the keyring.
func (i *Identity) commitSeed(ctx context.Context, store Store, made *BundleMade, version string, featureLevel uint32) error {
	pin, err := PinOfKey(i.Leaf().PublicKey)
	if err != nil {
		return err
	}
	bundle := i.CABundle()
	ca := CARecord{MeshID: i.MeshID(), Certificate: bundle, Bundle: bundle}
	if made == nil {
		ca.Key = i.CAKey()
	}
	type firstRecord struct {
		key   string
		value any
	}
	values := []firstRecord{
		{KeyCA, ca},
		{KeyGossip, GossipRecord{GossipKeyring: i.GossipKeyring()}},
		{KeyListedOnly, ListedOnly{By: "the mesh's first host", At: i.info.Joined}},
		{HostKey(i.Host()), HostRecord{
			Name: i.Host(), ID: i.info.HostID, MeshAddress: i.info.MeshAddress, GossipAddress: i.info.GossipAddress, SANs: i.info.SANs,
			KeyPin: pin.String(), Version: version, FeatureLevel: featureLevel, Joined: i.info.Joined,
		}},
	}
	if made != nil {
		values = append(values, firstRecord{KeyBundles, BundlesRecord{Last: *made}})
		if first := i.SecretKeys(); len(first) > 0 && made.HasSecretKeys(i.SecretKeyIDs()) {
			values = append(values, firstRecord{KeySecretKeys, SecretKeysRecord{Active: first[0].ID(), Keys: []SecretKeyRecord{NewSecretKeyRecord(first[0])}}})
		}
	}
	var txn raftstore.Txn
	for _, v := range values {
		op, err := putOp(v.key, v.value)
		if err != nil {
			return err
		}
		txn.If = append(txn.If, raftstore.Condition{Key: v.key})
		txn.Ops = append(txn.Ops, op)
	}
	_, err = store.Commit(ctx, txn)
	var conflict *raftstore.ConflictError
	if !errors.As(err, &conflict) {
		return err
	}
	// An earlier Seed was committed. Check that it was for this mesh.
	var have CARecord
	if _, err := readJSON(ctx, store, KeyCA, raftstore.ReadOptions{}, &have); err != nil {
		return err
	}
	if have.MeshID != i.MeshID() || !bytes.Equal(have.Certificate, bundle) {
		return fmt.Errorf("the replicated store belongs to mesh %s, not to %s", have.MeshID, i.MeshID())
	}
	return nil
}
