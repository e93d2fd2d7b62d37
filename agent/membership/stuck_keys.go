package membership

import (
	"context"
	"errors"
	"sync"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/port/keyring"
	"virtmesh/raftstore"
)

// noCopy is the store of a host that has no usable copy of the mesh's state.
type noCopy struct{}

func (noCopy) Commit(context.Context, raftstore.Txn) (raftstore.TxnResult, error) {
	return raftstore.TxnResult{}, errNotOpen
}

func (noCopy) Get(context.Context, string, raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	return raftstore.Record{}, 0, raftstore.ErrNotFound
}

func (noCopy) List(context.Context, raftstore.ListRequest) (raftstore.ListResult, error) {
	return raftstore.ListResult{}, nil
}

var _ identity.Store = noCopy{}

// startAskingForGossipKeys makes a host that waits for help take the gossip keys that the others
// have, until the returned function is called: it can read no change of the keys, and would drop
// out of gossip when they are replaced, just when somebody looks for it.
func (m *Member) startAskingForGossipKeys(ctx context.Context) (stop func()) {
	client := keyring.NewClient(keyring.ClientConfig{
		Self: m.config.Name, Voters: func() []string { return nil }, Heard: m.peers.heardHosts, Dial: m.dialKeyring, Speaker: m.Speaker,
	})
	keeper := &gossipKeys{
		store: noCopy{}, identity: m.identity, set: m.gossip.SetKeys, unheard: m.peers.unheardHosts, others: m.peers.otherHosts,
		ask: client.GossipKeys, log: m.log.With("part", "gossip"),
	}
	ctx, cancel := context.WithCancel(ctx)
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			keeper.keepKeys(ctx)
			if len(m.peers.otherLive()) == 0 {
				m.joining(nil).JoinGossip(ctx)
			}
			select {
			case <-ctx.Done():
			case <-time.After(gossipKeysPause):
			}
		}
	})
	return func() {
		cancel()
		asking.Wait()
	}
}

// admits is Admission.Admit. Before the replica is open, and for as long as it cannot be, it also lets
// this host ask others for the gossip keys, those that it knows by their keys from before.
func (m *Member) admits(peer port.Peer) error {
	err := m.admission.Admit(peer)
	asks := errors.Is(err, errNotOpen) && peer.Dialled && peer.Proto == port.ProtoKeyring
	if asks && m.peers.keeps(peer.Node, peer.Key) {
		return nil
	}
	return err
}
