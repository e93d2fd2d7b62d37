package membership

import (
	"context"
	"errors"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
)

// joinTimeout bounds how long a starting agent looks for its mesh before it continues
// alone: it must take care of its guests in any case.
const joinTimeout = 30 * time.Second

// rejoinTimeout is joinTimeout for a host that has a copy of the mesh's state. Such a
// host can serve without the others, and keeps asking them while it does.
const rejoinTimeout = 5 * time.Second

// joinGossip announces this host to the other hosts. It is no error if no host answers:
// when a whole mesh was switched off, one host starts first.
func (m *Member) joinGossip(ctx context.Context) error {
	var addresses []string
	for _, seed := range m.peers.Seeds() {
		addresses = append(addresses, seed.GossipAddress)
	}
	if len(addresses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if _, err := m.gossip.Join(ctx, addresses); err != nil {
		m.log.Warn("no other host answers yet", "tried", addresses, "err", err)
	}
	return nil
}

func (m *Member) openStore(ctx context.Context) error {
	raft, err := m.port.StreamLayer(port.ProtoRaft)
	if err != nil {
		return err
	}
	rpc, err := m.port.StreamLayer(port.ProtoStore)
	if err != nil {
		return err
	}
	cfg := m.config.storeConfig(m.log.With("part", "raftstore"))
	cfg.Bootstrap, cfg.Version = m.identity.Founder(), m.options.Version
	cfg.Raft, cfg.RPC, cfg.PeerOf = raft, rpc, port.PeerOf
	cfg.Members = m.peers.MemberHealth
	cfg.Signer = identity.NewNotary(m.identity, m.admission.StillMember)
	cfg.Registerer = m.options.Metrics
	store, err := raftstore.Open(ctx, cfg)
	if isUnusable(err) {
		return m.awaitHelp(ctx, err)
	}
	if err != nil {
		return err
	}
	m.store, m.records = store, m.options.Meter.Raft(store, "membership")
	hosts := identity.NewHosts(store)
	m.admission.open(hosts)
	m.peers.OpenRecords(hosts)
	m.witness = NewWitness(m.peers, store)
	m.onClose(func(ctx context.Context) {
		if store.IsLeader() {
			if err := store.TransferLeadership(ctx); err != nil {
				m.log.Debug("leadership was not handed over", "err", err)
			}
		}
		store.Close()
	})
	return nil
}

// joinStore makes this host a replica, or reports its address to the group if it
// already is one. A host with a copy of the store continues with the copy when no other
// host answers; a host without a copy waits for one.
func (m *Member) joinStore(parent context.Context) error {
	defer m.peers.readRecords()
	if m.identity.Founder() {
		ctx, cancel := context.WithTimeout(parent, joinTimeout)
		defer cancel()
		return m.identity.Seed(ctx, m.records, m.options.Version, level.Highest)
	}
	if !m.store.Joined() {
		return m.awaitCopy(parent)
	}
	var addresses []string
	for _, seed := range m.peers.Seeds() {
		addresses = append(addresses, seed.MeshAddress)
	}
	if len(addresses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	err := m.store.Join(ctx, addresses)
	if failed := m.Err(); failed != nil {
		return failed
	}
	if err == nil || m.store.IsLeader() {
		return nil
	}
	// The other hosts may be starting too. The store keeps looking for a leader, and
	// operations that need a leader wait for it.
	m.log.Warn("the mesh does not answer yet", "err", err)
	ctx, cancel = context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	return m.renewals.askWhetherExpelled(ctx)
}

// awaitCopy asks the other hosts to accept this one as a replica until they do. It
// fails only when ctx ends or the replica fails.
//
// A host whose copy of the mesh's state is empty must not act: in an empty store every
// guest on the host would look unwanted. The host is new, or its copy was lost or
// deleted; in both cases other hosts have the state. So the host asks them, and
// meanwhile its waiting room reports what it waits for. Guests continue to run.
func (m *Member) awaitCopy(ctx context.Context) error {
	w := m.newWaitingRoom("has no copy of the mesh's state and waits for another host to send one")
	defer w.close()
	for {
		err := m.askForCopy(ctx)
		if err == nil {
			return nil
		}
		if failed := m.Err(); failed != nil {
			return failed
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if gone := m.renewals.askWhetherExpelled(ctx); gone != nil {
			return gone
		}
		if err := w.waitFor(ctx, err); err != nil {
			return err
		}
		if len(m.peers.otherLive()) == 0 {
			if err := m.joinGossip(ctx); err != nil {
				return err
			}
		}
	}
}

func (m *Member) askForCopy(ctx context.Context) error {
	addresses := m.peers.MeshAddresses()
	if len(addresses) == 0 {
		return errNoOther
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return m.store.Join(ctx, addresses)
}

var errNoOther = errors.New("no other host is known; if none has the state, restore a backup with 'virtmesh agent recover --backup FILE'")
