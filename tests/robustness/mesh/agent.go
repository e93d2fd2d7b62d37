package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/membership"
	"virtmesh/agent/membership/succession"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/stewards"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// agent is one run of a host's agent.
type agent struct {
	host *Host
	log  *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	// dead is set when the process is killed. From then on it acts on nothing. steps is
	// at which step from now that happens; zero for never.
	dead  atomic.Bool
	steps atomic.Int64

	member chan struct{} // closed when the host has a copy of the state, and its loops run
	ended  chan struct{} // closed when nothing is left of the process

	gossip      *gossip.Gossip
	peers       *membership.Peers
	store       *raftstore.Store
	admission   atomic.Pointer[membership.Admission]
	witness     *membership.Witness
	voters      *succession.Keeper
	cache       *objects.Cache
	claims      *claims.Cache
	stewardship *stewards.Stewardship
	judge       *offer.Judge

	mu      sync.Mutex
	err     error
	closers []func() // undo the start, last first
}

// errKilled is the error of every act of a process that was killed.
var errKilled = errors.New("the agent was killed")

// newAgent opens the parts of an agent that need no other host.
func newAgent(h *Host, steps int) (_ *agent, err error) {
	a := &agent{host: h, log: h.mesh.cfg.Logger.With("host", h.Name), member: make(chan struct{}), ended: make(chan struct{})}
	a.steps.Store(int64(steps))
	a.ctx, a.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	a.peers = membership.NewPeers(h.Name, &h.book, a.log)
	if err := a.openGossip(); err != nil {
		return nil, err
	}
	if err := a.openStore(); err != nil {
		return nil, err
	}
	a.witness = membership.NewWitness(a.peers, a.store)
	return a, a.openView()
}

func (a *agent) onClose(undo func()) { a.closers = append(a.closers, undo) }

func (a *agent) close() {
	a.cancel()
	for _, undo := range slices.Backward(a.closers) {
		undo()
	}
}

func (a *agent) openGossip() error {
	network, cfg := a.host.mesh.links.gossip, gossip.DefaultConfig()
	cfg.Name, cfg.Mesh, cfg.Logger = a.host.Name, "mesh", a.log
	cfg.Seeds, cfg.Profile = a.peers.GossipSeeds, a.host.mesh.cfg.Gossip
	cfg.Facts = gossip.Facts{MeshAddr: a.host.address, Version: "v1", FeatureLevel: int(level.Highest)}
	cfg.Transport, cfg.Clock = network.Restart(a.host.Name), a.host.Now
	g, err := gossip.New(cfg)
	if err != nil {
		return err
	}
	a.gossip = g
	a.peers.OpenGossip(g)
	a.onClose(g.Shutdown)
	return nil
}

func (a *agent) openStore() error {
	calls, cfg := a.host.mesh.links.calls, raftstore.DefaultConfig()
	cfg.NodeID, cfg.Addr, cfg.DataDir = a.host.Name, a.host.address, a.host.dataDir()
	cfg.Constraints, cfg.Members, cfg.Logger = claims.Rules(), a.peers.MemberHealth, a.log
	cfg.Bootstrap, cfg.Version, cfg.Voters.ForgetAfter = a.host.founder, "v1", a.host.mesh.cfg.ForgetAfter
	cfg.Signer = a.host.mesh.links.keys.Signer(a.host.Name)
	cfg.LogFiles, cfg.BootTime = a.host.disk.LogFiles, a.host.bootTime
	cfg.Raft, cfg.RPC = a.layer(calls, "raft", port.ProtoRaft), a.layer(calls, "rpc", port.ProtoStore)
	cfg.FeatureLevel = level.Known()
	cfg.PeerOf = a.host.mesh.links.peerOf
	store, err := raftstore.Open(a.ctx, cfg)
	if err != nil {
		return err
	}
	a.store = store
	if err := a.openVoters(); err != nil {
		return err
	}
	a.admission.Store(membership.NewAdmission(store, store, a.voters, nil))
	a.peers.OpenRecords(identity.NewHosts(store))
	a.onClose(func() {
		if err := store.Close(); err != nil && !a.dead.Load() {
			a.host.mesh.History.fail("close the store of %s: %v", a.host.Name, err)
		}
	})
	return nil
}

func (a *agent) layer(calls *raftstoretest.Network, kind, proto string) layer {
	return layer{calls.Listen(kind, a.host.address), a, proto}
}

func (a *agent) openView() error {
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = lagging{a.writer("cache"), a.host}, a.log
	var err error
	if a.cache, err = objects.NewCache(cfg); err != nil {
		return err
	}
	a.claims = claims.NewCache(a.cache, a.log)
	a.stewardship = stewards.NewStewardship(stewards.StewardshipConfig{
		Self: a.host.Name, Members: a.peers.Deciders(), Witness: a.witness, Logger: a.log,
	})
	a.onClose(a.stewardship.Close)
	return nil
}

// writer returns the store as a part of the agent writes it.
func (a *agent) writer(name string) objects.Store {
	return stewards.Guard(written{objects.FromRaft(a.store, nil), a, name})
}

// admits returns an error if the host does not admit another machine for a protocol. dialled
// says that the host calls the machine.
func (a *agent) admits(other *Host, proto string, dialled bool) error {
	admission := a.admission.Load()
	if admission == nil {
		return errors.New("the replica is not open yet")
	}
	return admission.Admit(port.Peer{Node: other.node, Key: other.keyPin(), Proto: proto, Dialled: dialled})
}

// asMember returns the agent as package membership knows it.
func (a *agent) asMember() *membership.Member {
	return membership.FromParts(membership.Config{Name: a.host.Name}, membership.Options{Logger: a.log}, a.peers, a.gossip, a.store, a.witness)
}

// isMember reports whether the host has a copy of the state and runs its loops.
func (a *agent) isMember() bool {
	select {
	case <-a.member:
		return !a.dead.Load()
	default:
		return false
	}
}

// step is called before each act that others notice, and after it. Its error says that the process was
// killed.
func (a *agent) step() error {
	a.host.cpu.idle()
	if a.steps.Load() > 0 && a.steps.Add(-1) == 0 {
		a.kill()
	}
	if a.dead.Load() {
		return errKilled
	}
	return nil
}

// kill ends the process. It does not wait until nothing is left of it.
func (a *agent) kill() { a.die(death{}) }

// die ends the process. It does not wait until nothing is left of it. From now on it
// reaches nobody, and what it writes goes nowhere.
func (a *agent) die(d death) {
	if a.dead.Swap(true) {
		return
	}
	h := a.host
	h.mesh.links.setOff(h.Name, true)
	if d.power {
		h.mesh.History.note(h.Name, "the host loses its power")
		h.machine.PowerLoss()
		h.mu.Lock()
		h.disk.LosePower(h.chance)
		h.mu.Unlock()
	} else {
		h.mesh.History.note(h.Name, "the agent is killed")
		h.disk.Kill()
	}
	h.mesh.links.calls.Hangup(h.address)
	a.cancel()
}

// startLiving lets the agent live, in the background.
func (a *agent) startLiving() {
	go func() {
		err := a.live(a.ctx)
		if err == nil {
			err = errKilled
		}
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		if !a.dead.Load() {
			a.host.mesh.links.setOff(a.host.Name, true)
			a.host.mesh.History.noteEnd(a.host.Name, err)
		}
		a.close()
		a.host.mu.Lock()
		a.host.agent = nil
		a.host.mu.Unlock()
		close(a.ended)
	}()
}

// failure returns why the agent has ended.
func (a *agent) failure() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// live is the life of the agent, from the search for the mesh to its end.
func (a *agent) live(ctx context.Context) error {
	var background sync.WaitGroup
	defer background.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	background.Go(func() { a.keepVoters(ctx) })
	if err := a.join(ctx); err != nil {
		return err
	}
	loops, err := a.loops()
	if err != nil {
		return err
	}
	background.Go(func() { a.peers.FollowRecords(ctx, a.store) })
	a.followVoters(ctx)
	background.Go(func() { a.host.mesh.History.follow(ctx, a.host.Name, a.store) })
	background.Go(func() {
		select {
		case <-ctx.Done():
		case <-a.store.Failed():
			cancel()
		}
	})
	a.host.mesh.History.note(a.host.Name, "the host is a member")
	close(a.member)
	err = stewards.RunLoops(ctx, loops)
	if failed := a.store.Err(); failed != nil {
		return failed
	}
	return err
}

// join finds the mesh and makes the host a replica, as an agent does.
func (a *agent) join(ctx context.Context) error {
	joining := membership.Joining{
		Gossip: a.gossip, Store: a.store, Peers: a.peers, Log: a.log,
		AskWhyRefused: a.askWhyRefused,
		Wait: func(ctx context.Context, _ error) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(membership.JoinPause):
				return nil
			}
		},
	}
	joining.JoinGossip(ctx)
	if a.host.founder && len(a.peers.Seeds()) == 0 {
		return a.found(ctx)
	}
	return joining.JoinStore(ctx)
}

// found writes the record of the first host.
func (a *agent) found(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, membership.JoinTimeout)
	defer cancel()
	if _, err := identity.NewHosts(a.store).Get(ctx, a.host.Name, raftstore.ReadOptions{}); !errors.Is(err, fault.NoHost) {
		return err
	}
	if err := a.seedCA(ctx); err != nil {
		return err
	}
	return a.host.enrol(ctx, a.store)
}

// askWhyRefused returns an error if a host that can be reached no longer admits this one.
func (a *agent) askWhyRefused(context.Context) error {
	for _, other := range a.host.mesh.links.all() {
		peer := other.running()
		if other == a.host || peer == nil || !peer.isMember() || !a.host.mesh.links.reach(a.host, other) {
			continue
		}
		if err := peer.admits(a.host, port.ProtoAPI, false); errors.Is(err, fault.Expelled) {
			return fmt.Errorf("%s was told by %s: %w", a.host.Name, other.Name, err)
		}
	}
	return nil
}
