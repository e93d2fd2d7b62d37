package mesh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/membership/succession"
	"virtmesh/raftstore"
)

// meshID names every mesh of the tests.
const meshID = "mesh"

// votersPause is how often an agent looks at the list of the mesh's voters.
const votersPause = 5 * time.Second

// voterBook keeps what an identity would keep on disk.
type voterBook struct {
	mu         sync.Mutex
	manifest   []byte
	cas        []byte
	generation uint64
}

var _ succession.Book = (*voterBook)(nil)

// Manifest implements succession.Book.
func (b *voterBook) Manifest() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.manifest), nil
}

// KeepManifest implements succession.Book.
func (b *voterBook) KeepManifest(data []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manifest = slices.Clone(data)
	return nil
}

// Trust implements succession.Book.
func (b *voterBook) Trust() (bundle []byte, generation uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.cas), b.generation
}

// KeepTrust implements succession.Book. No connection is encrypted here, so nothing depends on it
// but what a voter signs.
func (b *voterBook) KeepTrust(bundle []byte, generation uint64) (changed bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cas, b.generation = slices.Clone(bundle), generation
	return true, nil
}

func (h *Host) keyPin() identity.Pin {
	pin, err := identity.PinOfKey(h.key.Public())
	if err != nil {
		panic(err)
	}
	return pin
}

// openVoters opens what the agent has to do with the list of the mesh's voters.
func (a *agent) openVoters() (err error) {
	h := a.host
	a.voters, err = succession.New(succession.Config{
		Self: h.node, KeyPin: h.keyPin, MeshID: meshID, Store: a.store, Group: a.store, Book: &h.voters, Logger: a.log,
		Sign: func(p identity.Purpose, message []byte) (key, sum []byte, err error) {
			return identity.SignFor(p, h.key, message)
		},
		Sources: a.peers.MeshAddresses,
		Fetch: func(ctx context.Context, address string, after uint64) ([][]byte, error) {
			other := h.mesh.links.at(address)
			if other == nil || !h.mesh.links.reach(h, other) || other.running() == nil {
				return nil, fmt.Errorf("ask %s: nobody answers", address)
			}
			return succession.Published(ctx, other.running().store, after, raftstore.ReadOptions{Consistency: raftstore.Local})
		},
		Unheard: a.unheard,
		Tell: func(_ context.Context, address string) error {
			other := h.mesh.links.at(address)
			if other == nil || !h.mesh.links.reach(h, other) || other.running() == nil {
				return fmt.Errorf("tell %s: nobody answers", address)
			}
			other.running().voters.Hear(h.address)
			return nil
		},
	})
	a.peers.OpenVoters(a.voters.Voters)
	return err
}

// unheard returns the addresses of the hosts of the mesh that gossip does not hear.
func (a *agent) unheard() (addresses []string) {
	live := a.peers.Members()
	for _, seed := range a.peers.Seeds() {
		if !slices.Contains(live, seed.Host) {
			addresses = append(addresses, seed.MeshAddress)
		}
	}
	return addresses
}

// keepVoters keeps the list of the mesh's voters until ctx ends.
func (a *agent) keepVoters(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(votersPause):
			a.followVoters(ctx)
		}
	}
}

// followVoters looks at the list of the mesh's voters.
func (a *agent) followVoters(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, votersPause)
	defer cancel()
	if a.step() != nil {
		return
	}
	// A host trusts what its copy of the state names.
	if cas, generation, err := identity.TrustedCAs(ctx, a.store, raftstore.ReadOptions{Consistency: raftstore.Local}); err == nil {
		_, _ = a.host.voters.KeepTrust(cas, generation)
	}
	if err := a.voters.Step(ctx); err != nil {
		a.log.Debug("the list of voters", "err", err)
	}
}

// seedCA writes the CA of the mesh.
func (a *agent) seedCA(ctx context.Context) error {
	ca, err := identity.NewCA(meshID)
	if err != nil {
		return fmt.Errorf("found the mesh: %w", err)
	}
	value, err := json.Marshal(identity.CARecord{MeshID: meshID, Certificate: ca.CertificatePEM(), Bundle: ca.CertificatePEM()})
	if err != nil {
		return fmt.Errorf("found the mesh: %w", err)
	}
	_, err = a.store.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{{Key: identity.KeyCA, Value: value}}})
	if err != nil {
		return fmt.Errorf("found the mesh: %w", err)
	}
	return nil
}

// Confirm returns once the copy of the state that the host has is certainly the mesh's.
func (h *Host) Confirm(ctx context.Context) error {
	a := h.running()
	if a == nil {
		return errors.New("its agent does not run")
	}
	return a.store.Confirm(ctx)
}

// VoterList returns the version of the list of voters that the host follows.
func (h *Host) VoterList() uint64 {
	if a := h.running(); a != nil {
		return a.voters.Version()
	}
	return 0
}
