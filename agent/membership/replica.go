package membership

import (
	"context"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
)

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
	cfg.Voters.Limit = new(voterLimit).read
	cfg.MayChange = m.changesOfOthers()
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
	m.openVoterList()
	m.admission.open(store, store, m.lists.keeper, m.identity.CABundle)
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

// joinGossip announces this host to the other hosts.
func (m *Member) joinGossip(ctx context.Context) error {
	m.joining(nil).JoinGossip(ctx)
	return nil
}

// joinStore makes this host a replica; the one that founds the mesh writes its first
// records instead. While the host waits for a copy, its waiting room says so.
func (m *Member) joinStore(parent context.Context) error {
	defer m.peers.readRecords()
	if m.identity.Founder() {
		ctx, cancel := context.WithTimeout(parent, JoinTimeout)
		defer cancel()
		return m.identity.Seed(ctx, m.records, m.options.Version, level.Highest)
	}
	room := m.newWaitingRoom("has no copy of the mesh's state and waits for another host to send one")
	defer room.close()
	return m.joining(room.waitFor).JoinStore(parent)
}

// joining returns how this host joins its mesh.
func (m *Member) joining(wait func(context.Context, error) error) Joining {
	return Joining{
		Gossip: m.gossip, Store: m.store, Peers: m.peers, Log: m.log, Wait: wait,
		AskWhyRefused: m.renewals.askWhyRefused,
	}
}
