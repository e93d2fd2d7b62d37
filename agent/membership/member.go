package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/agent/port/keyring"
	"virtmesh/agent/sealed"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// Options holds what a member needs besides its configuration.
type Options struct {
	// Version is the program's version; it is reported to other hosts.
	Version string
	// ConfigPath is the file that the configuration came from; it is removed
	// when the host leaves its mesh.
	ConfigPath string
	// Logger receives the member's log lines.
	Logger *slog.Logger
	// Metrics registers and serves the member's metrics.
	Metrics *prometheus.Registry
	// Meter counts what the member writes. Nil: nothing is counted.
	Meter *objects.Meter
	// InterfaceAddresses returns the IPv4 addresses of this host's interfaces, sorted, for
	// the host's record. Nil: none are recorded.
	InterfaceAddresses func() ([]netip.Addr, error)
	// NotifyAlive tells the service manager that the agent is alive while it waits for
	// a copy of the mesh's state, as long as healthy returns nil.
	NotifyAlive func(ctx context.Context, healthy func() error) error
}

// Member is this host as a member of its mesh. Start opens it; Close undoes the start.
// Its methods may be called concurrently.
type Member struct {
	config  Config
	options Options
	log     *slog.Logger

	identity  *identity.Identity
	admission *Admission
	peers     *Peers
	port      *port.Port
	gossip    *gossip.Gossip
	store     *raftstore.Store
	records   objects.Raft // the same store, which counts what this package writes
	renewals  renewals
	lists     voterList
	witness   *Witness
	signer    *identity.Signer
	voters    *keyring.Client
	vault     *sealed.Vault
	tokens    *tokenAges
	renewer   *identity.Renewer

	// secretsDone is as in secretsKeeper.
	secretsDone atomic.Uint64
	// voted is as in secretsKeeper.
	voted sync.Map

	// closers undo the start, last first.
	closers []func(context.Context)
	// left is closed when this host has left the mesh for good.
	left     chan struct{}
	leftOnce sync.Once
	// expelled is closed when it is certain that the mesh has expelled this host.
	expelled chan struct{}
}

// step is one step of a start; what names it in errors.
type step struct {
	what string
	run  func(context.Context) error
}

// Start makes this host a running member of its mesh. ctx bounds the start, which lasts
// until this host has a copy of the mesh's state. On an error Start stops everything
// that it started.
func Start(ctx context.Context, config Config, options Options) (_ *Member, err error) {
	m := newMember(config, options)
	defer func() {
		if err != nil {
			m.Close(context.Background())
		}
	}()
	for _, step := range append(m.openingSteps(), step{"become a replica", m.joinStore},
		step{"follow the list of voters", m.followVoterList},
		step{"keep this host's record", m.startRecord}, step{"keep the keyring", m.startKeyring},
		step{"watch for an expulsion", m.startWatchOfExpulsion},
		step{"admit other hosts", m.serveJoin}) {
		started := time.Now()
		if err := step.run(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, m.confirmExpulsion(ctx, err))
		}
		m.log.Debug("started", "step", step.what, "took", time.Since(started).Round(time.Millisecond))
	}
	return m, nil
}

func newMember(config Config, options Options) *Member {
	return &Member{config: config, options: options, log: options.Logger, admission: &Admission{}, tokens: &tokenAges{}, left: make(chan struct{}), expelled: make(chan struct{})}
}

// FromParts returns a member whose parts the caller has opened, and closes. It has no
// port and no identity: it can remove other hosts, and cannot admit any.
func FromParts(config Config, options Options, peers *Peers, g *gossip.Gossip, store *raftstore.Store, witness *Witness) *Member {
	m := newMember(config, options)
	m.peers, m.gossip, m.store, m.records, m.witness = peers, g, store, store, witness
	return m
}

// openingSteps returns the steps that need no answer from another host.
func (m *Member) openingSteps() []step {
	return []step{
		{"make directories", m.makeDirectories},
		{"read identity", m.openIdentity},
		{"look whether this host was expelled", m.refuseExpelled},
		{"renew an ended certificate", m.renewExpired},
		{"open the mesh port", m.openPort},
		{"ask whether this machine was removed", m.askBeforeGossip},
		{"ask which CAs the mesh trusts", m.learnBeforeGossip},
		{"start gossip", m.startGossip},
		{"open the replicated store", m.openStore},
		{"open the keyring", m.openKeyring},
		{"keep the gossip keys", m.startGossipKeys},
		{"find the other hosts", m.joinGossip},
		{"keep certificates young", m.startRenewal},
		{"keep the list of voters", m.startVoterList},
		{"follow the mesh's CAs", m.startTrust},
	}
}

func (m *Member) onClose(undo func(context.Context)) { m.closers = append(m.closers, undo) }

// Close undoes the start in reverse order. ctx bounds how long it hands over duties.
func (m *Member) Close(ctx context.Context) {
	for _, undo := range slices.Backward(m.closers) {
		undo(ctx)
	}
	m.closers = nil
}

// Identity returns the identity of this host.
func (m *Member) Identity() *identity.Identity { return m.identity }

// Admission returns what decides which hosts and certificates are accepted.
func (m *Member) Admission() *Admission { return m.admission }

// Peers returns the list of the other hosts.
func (m *Member) Peers() *Peers { return m.peers }

// Port returns the open mesh port.
func (m *Member) Port() *port.Port { return m.port }

// Gossip returns the running gossip.
func (m *Member) Gossip() *gossip.Gossip { return m.gossip }

// Store returns this host's replica of the mesh's state.
func (m *Member) Store() *raftstore.Store { return m.store }

// Err returns why this host can no longer work: its replica has failed. It is nil while
// the replica works, and while the agent waits for a replica that can be opened.
func (m *Member) Err() error {
	if m.store == nil {
		return nil
	}
	return m.store.Err()
}

// ErrLeft is returned by Run when the host has left the mesh.
var ErrLeft = errors.New("this host left the mesh")

// Run saves the other hosts' addresses until ctx ends. It ends earlier with ErrLeft
// when this host has left the mesh, with ErrExpelled when it is certain that the mesh has
// expelled it, or with the error that stopped its replica.
func (m *Member) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	remembering := make(chan struct{})
	go func() {
		defer close(remembering)
		m.peers.FollowRecords(ctx, m.store)
	}()
	defer func() {
		cancel()
		<-remembering
	}()
	select {
	case <-ctx.Done():
		return nil
	case <-m.left:
		return ErrLeft
	case <-m.expelled:
		return ErrExpelled
	case <-m.store.Failed():
		return fmt.Errorf("the replicated store stopped: %w", m.Err())
	}
}

// Forget deletes the files that made this machine a host of the mesh. Call it after the
// host has left and the member is closed.
func (m *Member) Forget() error { return forgetMembership(m.config, m.options.ConfigPath) }

func (m *Member) makeDirectories(context.Context) error {
	if err := identity.MakeStateDir(m.config.StateDir); err != nil {
		return err
	}
	for _, dir := range []string{m.config.RunDir, m.config.raftDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (m *Member) openIdentity(context.Context) (err error) {
	if m.identity, err = identity.OpenSealed(m.config.StateDir, m.config.seals()); err != nil {
		return err
	}
	for _, shut := range m.identity.Shut() {
		m.log.Warn("keys of this host's keyring count as lost", "part", "keyring", "err", shut)
	}
	m.peers = NewPeers(m.config.Name, m.identity, m.log)
	m.renewals = renewals{config: m.config, version: m.options.Version, identity: m.identity, peers: m.peers}
	return nil
}

func (m *Member) openPort(context.Context) error {
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Advertise = m.config.MeshListen, m.config.MeshAddress()
	cfg.Credentials = m.identity
	cfg.Admit, cfg.ClientCAs = m.admits, m.admission.ClientCAs
	cfg.HostAt, cfg.Known = m.peers.hostAt, m.peers.IsHostAddress
	cfg.Logger, cfg.Registerer = m.log.With("part", "port"), m.options.Metrics
	opened, err := port.New(cfg)
	if err != nil {
		return err
	}
	m.port = opened
	m.onClose(func(context.Context) { opened.Close() })
	return nil
}

// initialFacts returns the facts that this host gossips before it knows what it can
// run.
func (m *Member) initialFacts() gossip.Facts {
	return gossip.Facts{MeshAddr: m.config.MeshAddress(), Zone: m.config.Zone, Version: m.options.Version,
		LowestFeatureLevel: int(level.Lowest), FeatureLevel: int(level.Highest),
		Trust: identity.TrustFingerprint(m.identity.CABundle()), SignedBy: m.identity.SignedBy().String()}
}

func (m *Member) startGossip(context.Context) error {
	cfg := gossip.DefaultConfig()
	cfg.Name, cfg.Mesh = m.config.Name, m.identity.MeshID()
	cfg.BindAddr, cfg.BindPort = "0.0.0.0", m.config.GossipPort
	cfg.AdvertiseAddr, cfg.AdvertisePort = m.config.Advertise, m.config.GossipPort
	cfg.Keys = m.identity.GossipKeys()
	cfg.Seeds, cfg.Known = m.peers.GossipSeeds, m.peers.IsHostAddress
	cfg.Facts = m.initialFacts()
	cfg.Logger, cfg.Registerer = m.log.With("part", "gossip"), m.options.Metrics
	g, err := gossip.New(cfg)
	if err != nil {
		return err
	}
	m.gossip = g
	m.peers.OpenGossip(g)
	m.onClose(func(context.Context) { g.Shutdown() })
	return nil
}

// serveJoin admits machines with a token and renews the certificates of hosts.
func (m *Member) serveJoin(context.Context) error {
	server, err := enrol.NewServer(m.joinConfig())
	if err != nil {
		return err
	}
	listener, err := m.port.Listen(port.ProtoJoin)
	if err != nil {
		return err
	}
	rpc := port.ServeRPC(listener, server, m.log.With("part", "join"))
	m.onClose(func(ctx context.Context) {
		rpc.Shutdown(ctx)
		server.Close()
	})
	return nil
}

func (m *Member) joinConfig() enrol.ServerConfig {
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host, cfg.Version = m.signer, m.config.Name, m.options.Version
	cfg.FeatureLevel = m.store.FeatureLevel
	cfg.Manifests, cfg.News = m.publishedLists, m.lists.keeper.Hear
	cfg.GuestNetwork, cfg.CheckGuestNetwork = m.guestNetwork, func(own string) error { return checkGuestNetwork(m.guestNetwork(), own) }
	cfg.Logger, cfg.Registerer = m.log.With("part", "join"), m.options.Metrics
	return cfg
}
