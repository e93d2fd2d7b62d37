package membership

import (
	"context"
	"errors"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
)

// joinTimeout bounds how long a starting agent looks for its mesh before it
// goes on by itself: its guests must be looked after either way.
const joinTimeout = 30 * time.Second

// rejoinTimeout is the same for a host that has a copy of the mesh's state. It can
// serve without the others, and goes on asking them while it does.
const rejoinTimeout = 5 * time.Second

// joinGossip makes this host known to the others. Nobody answering is no
// error: a mesh that was switched off as a whole starts with one host.
func (m *Member) joinGossip(ctx context.Context) error {
	var addresses []string
	for _, seed := range m.peers.seeds() {
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
	cfg.Bootstrap = m.identity.Founder()
	cfg.Raft, cfg.RPC = raft, rpc
	cfg.Members = m.peers.health
	cfg.Registerer = m.options.Metrics
	store, err := raftstore.Open(ctx, cfg)
	if err != nil {
		return withRemedy(err)
	}
	m.store = store
	hosts := identity.NewHosts(store)
	m.admission.open(hosts)
	m.peers.hosts.Store(hosts)
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

// joinStore makes this host a replica, or tells the group its address. A host
// that was a member before goes on with its own copy when no one answers; one
// without a copy waits for it.
func (m *Member) joinStore(parent context.Context) error {
	if m.identity.Founder() {
		ctx, cancel := context.WithTimeout(parent, joinTimeout)
		defer cancel()
		return m.identity.Seed(ctx, m.store, m.options.Version, FeatureLevel)
	}
	if !m.store.Joined() {
		return m.awaitCopy(parent)
	}
	var addresses []string
	for _, seed := range m.peers.seeds() {
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
	// The other hosts may be starting too. The store goes on looking for its
	// leader, and what needs one waits for it.
	m.log.Warn("the mesh does not answer yet", "err", err)
	ctx, cancel = context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	return m.renewals.askWhetherExpelled(ctx)
}

// awaitCopy asks the other hosts to take this one in until they have. It ends
// without that only with ctx, or when the replica fails.
//
// A host whose copy of the mesh's state is empty must do nothing: every guest on
// it would look as if nobody wanted it. It is new, or its copy was lost or thrown
// away, and in either case others have the state. So it asks them, and only says
// meanwhile, in its waiting room, what it waits for. Guests go on.
func (m *Member) awaitCopy(ctx context.Context) error {
	w := m.newWaitingRoom()
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
	addresses := m.peers.meshAddresses()
	if len(addresses) == 0 {
		return errNoOther
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	return m.store.Join(ctx, addresses)
}

var errNoOther = errors.New("no other host is known; if none has the state, restore a backup with 'virtmesh agent recover --backup FILE'")
