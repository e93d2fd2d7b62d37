package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/port/enrol"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

// Options are what an agent is given besides its host's configuration.
type Options struct {
	// Version is the program's version, told to other hosts.
	Version string
	// ConfigPath is the file that the configuration came from; it is removed
	// when the host leaves its mesh.
	ConfigPath string
	// Logger receives everything the agent has to say.
	Logger *slog.Logger
}

// joinTimeout bounds how long a starting agent looks for its mesh before it
// goes on by itself: its guests must be looked after either way.
const joinTimeout = 30 * time.Second

// rejoinTimeout is the same for a host that has a copy of the mesh's state. It can
// serve without the others, and goes on asking them while it does.
const rejoinTimeout = 5 * time.Second

// shutdownTimeout bounds how long a stopping agent hands over and drains.
const shutdownTimeout = 15 * time.Second

// Agent is the agent of one host. New starts it; Run returns when it has
// stopped.
type Agent struct {
	config     Config
	configPath string
	version    string
	log        *slog.Logger
	metrics    *prometheus.Registry

	identity *identity.Identity
	port     *port.Port
	gossip   *gossip.Gossip
	store    *raftstore.Store
	signer   *identity.Signer
	renewer  *identity.Renewer
	// hosts is set once the store is open; connections come before.
	hosts   atomic.Pointer[identity.Hosts]
	host    *host
	servers *servers

	// closers undo the start, last first.
	closers []func(context.Context)
	// left is closed when this host has left the mesh for good.
	left     chan struct{}
	leftOnce sync.Once
}

// New starts an agent: everything that can answer "no" at once does so here.
// ctx bounds the start, which lasts until this host has a copy of the mesh's
// state. On an error nothing is left running.
func New(ctx context.Context, config Config, options Options) (_ *Agent, err error) {
	a := &Agent{
		config: config, configPath: options.ConfigPath, version: options.Version, log: options.Logger,
		metrics: prometheus.NewRegistry(), left: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			a.shutdown()
		}
	}()
	a.metrics.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, step := range []struct {
		what  string
		start func(context.Context) error
	}{
		{"make directories", a.makeDirectories},
		{"read identity", a.openIdentity},
		{"renew an ended certificate", a.renewEnded},
		{"open the mesh port", a.openPort},
		{"start gossip", a.startGossip},
		{"open the replicated store", a.openStore},
		{"find the other hosts", a.joinGossip},
		{"keep certificates young", a.startRenewal},
		{"become a replica", a.joinStore},
		{"keep this host's record", a.startRecord},
		{"admit other hosts", a.serveJoin},
		{"look after guests", a.startHost},
		{"serve the API", a.startServers},
	} {
		started := time.Now()
		if err := step.start(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", step.what, err)
		}
		a.log.Debug("started", "step", step.what, "took", time.Since(started).Round(time.Millisecond))
	}
	a.log.Info("agent started", "host", config.Name, "mesh", a.identity.MeshID(), "address", config.MeshAddress(), "version", a.version)
	return a, nil
}

// onStop remembers how to undo a step of the start.
func (a *Agent) onStop(undo func(context.Context)) { a.closers = append(a.closers, undo) }

func (a *Agent) makeDirectories(context.Context) error {
	if err := identity.MakeStateDir(a.config.StateDir); err != nil {
		return err
	}
	for _, dir := range []string{a.config.RunDir, a.config.raftDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (a *Agent) openIdentity(context.Context) (err error) {
	a.identity, err = identity.Open(a.config.StateDir)
	return err
}

func (a *Agent) openPort(context.Context) error {
	cfg := port.DefaultConfig()
	cfg.Bind, cfg.Advertise = a.config.MeshListen, a.config.MeshAddress()
	cfg.Credentials = a.identity
	cfg.Admit = a.admit
	cfg.HostAt = a.hostAt
	cfg.Logger, cfg.Registerer = a.log.With("part", "meshport"), a.metrics
	port, err := port.New(cfg)
	if err != nil {
		return err
	}
	a.port = port
	a.onStop(func(context.Context) { port.Close() })
	return nil
}

func (a *Agent) startGossip(context.Context) error {
	cfg := gossip.DefaultConfig()
	cfg.Name, cfg.Mesh = a.config.Name, a.identity.MeshID()
	cfg.BindAddr, cfg.BindPort = "0.0.0.0", a.config.GossipPort
	cfg.AdvertiseAddr, cfg.AdvertisePort = a.config.Advertise, a.config.GossipPort
	cfg.Keys = a.identity.GossipKeys()
	cfg.Facts = gossip.Facts{MeshAddr: a.config.MeshAddress(), Zone: a.config.Zone, Version: a.version, FeatureLevel: featureLevel}
	cfg.Logger, cfg.Registerer = a.log.With("part", "gossip"), a.metrics
	g, err := gossip.New(cfg)
	if err != nil {
		return err
	}
	a.gossip = g
	a.onStop(func(context.Context) { g.Shutdown() })
	return nil
}

// joinGossip makes this host known to the others. Nobody answering is no
// error: a mesh that was switched off as a whole starts with one host.
func (a *Agent) joinGossip(ctx context.Context) error {
	var addresses []string
	for _, seed := range a.seeds() {
		addresses = append(addresses, seed.GossipAddress)
	}
	if len(addresses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	if _, err := a.gossip.Join(ctx, addresses); err != nil {
		a.log.Warn("no other host answers yet", "tried", addresses, "err", err)
	}
	return nil
}

func (a *Agent) openStore(ctx context.Context) error {
	raft, err := a.port.StreamLayer(port.ProtoRaft)
	if err != nil {
		return err
	}
	rpc, err := a.port.StreamLayer(port.ProtoStore)
	if err != nil {
		return err
	}
	cfg := a.config.storeConfig()
	cfg.Bootstrap = a.identity.Founder()
	cfg.Raft, cfg.RPC = raft, rpc
	cfg.Members = a.memberHealth
	cfg.Logger, cfg.Registerer = a.log.With("part", "raftstore"), a.metrics
	store, err := raftstore.Open(ctx, cfg)
	if err != nil {
		return withRemedy(err)
	}
	a.store = store
	a.hosts.Store(identity.NewHosts(store))
	a.onStop(func(ctx context.Context) {
		if store.IsLeader() {
			if err := store.TransferLeadership(ctx); err != nil {
				a.log.Debug("leadership was not handed over", "err", err)
			}
		}
		store.Close()
	})
	return nil
}

// joinStore makes this host a replica, or tells the group its address. A host
// that was a member before goes on with its own copy when no one answers; one
// without a copy waits for it.
func (a *Agent) joinStore(parent context.Context) error {
	if a.identity.Founder() {
		ctx, cancel := context.WithTimeout(parent, joinTimeout)
		defer cancel()
		return a.identity.Seed(ctx, a.store, a.version, featureLevel)
	}
	if !a.store.Joined() {
		return a.awaitCopy(parent)
	}
	var addresses []string
	for _, seed := range a.seeds() {
		addresses = append(addresses, seed.MeshAddress)
	}
	if len(addresses) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	err := a.store.Join(ctx, addresses)
	if failed := a.store.Err(); failed != nil {
		return withRemedy(failed)
	}
	if err == nil || a.store.IsLeader() {
		return nil
	}
	// The other hosts may be starting too. The store goes on looking for its
	// leader, and what needs one waits for it.
	a.log.Warn("the mesh does not answer yet", "err", err)
	ctx, cancel = context.WithTimeout(parent, rejoinTimeout)
	defer cancel()
	return a.askWhetherExpelled(ctx)
}

// renewEnded renews a certificate that ended while the host was off. It must
// be done before anything else: without certificates there is no quorum, and
// without a quorum the replica would not show the CA to renew by. A host whose
// whole mesh was off signs for itself; it holds the CA like every other.
func (a *Agent) renewEnded(ctx context.Context) error {
	if time.Now().Before(a.identity.Leaf().NotAfter) {
		return nil
	}
	renewer, err := a.newRenewer(a.renewalByOthers(), a.renewalByItself())
	if err != nil {
		return err
	}
	defer renewer.Shutdown()
	return renewer.Renew(ctx)
}

// startRenewal keeps this host's certificate valid from now on.
func (a *Agent) startRenewal(context.Context) error {
	a.signer = identity.NewSigner(a.store, time.Duration(a.config.CertificateLifetime))
	renewer, err := a.newRenewer(a.signer.For(a.identity.Node()), a.renewalByOthers(), a.renewalByItself())
	if err != nil {
		return err
	}
	a.renewer = renewer
	a.onStop(func(context.Context) { renewer.Shutdown() })
	return nil
}

func (a *Agent) newRenewer(issuers ...identity.Issuer) (*identity.Renewer, error) {
	cfg := identity.DefaultRenewerConfig()
	cfg.Identity, cfg.Issuers = a.identity, issuers
	cfg.Logger = a.log.With("part", "identity")
	if a.store != nil {
		cfg.Registerer = a.metrics
	}
	return identity.NewRenewer(cfg)
}

func (a *Agent) renewalByOthers() identity.Issuer {
	return enrol.Renewal(enrol.RenewalConfig{Identity: a.identity, Members: a.meshAddresses, Attempt: 5 * time.Second})
}

func (a *Agent) renewalByItself() identity.Issuer {
	return identity.SelfIssuer(a.identity, a.config.certificateNames(), time.Duration(a.config.CertificateLifetime))
}

func (a *Agent) serveJoin(context.Context) error {
	server, err := enrol.NewServer(a.joinConfig())
	if err != nil {
		return err
	}
	listener, err := a.port.Listen(port.ProtoJoin)
	if err != nil {
		return err
	}
	rpc := port.ServeRPC(listener, server, a.log.With("part", "join"))
	a.onStop(func(ctx context.Context) {
		rpc.Shutdown(ctx)
		server.Close()
	})
	return nil
}

func (a *Agent) joinConfig() enrol.ServerConfig {
	cfg := enrol.DefaultServerConfig()
	cfg.Signer, cfg.Host, cfg.Version = a.signer, a.config.Name, a.version
	cfg.MinFeatureLevel = func() uint32 { return neededLevel(a.gossip.Members()) }
	cfg.Logger, cfg.Registerer = a.log.With("part", "join"), a.metrics
	return cfg
}

// Run serves until ctx ends, this host leaves the mesh, or a part fails that
// the agent cannot do without. It stops the agent before it returns.
func (a *Agent) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	group, groupCtx := errgroup.WithContext(ctx)
	group.Go(func() error { return a.host.run(groupCtx) })
	group.Go(func() error { return a.servers.run(groupCtx) })
	group.Go(func() error { return notifyServiceManager(groupCtx, a.healthy) })
	group.Go(func() error { a.rememberMembers(groupCtx); return nil })
	group.Go(func() error {
		select {
		case <-groupCtx.Done():
			return nil
		case <-a.left:
			return errLeft
		case <-a.store.Failed():
			return fmt.Errorf("the replicated store stopped: %w", withRemedy(a.store.Err()))
		}
	})
	err := group.Wait()
	a.log.Info("agent stops", "cause", errors.Join(err, context.Cause(ctx)))
	a.shutdown()
	if errors.Is(err, errLeft) {
		return a.forget()
	}
	return err
}

// errLeft ends an agent whose host has left the mesh.
var errLeft = errors.New("this host left the mesh")

// shutdown undoes the start in reverse.
func (a *Agent) shutdown() {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	for i := len(a.closers) - 1; i >= 0; i-- {
		a.closers[i](ctx)
	}
	a.closers = nil
}

// healthy tells whether the agent does its work; the service manager restarts
// one that does not.
func (a *Agent) healthy() error { return a.store.Err() }
