package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// ErrShutdown is returned by calls after Shutdown.
var ErrShutdown = errors.New("gossip is shut down")

// Gossip is one member of the mesh, the one that runs in this process. All methods
// are safe for concurrent use.
type Gossip struct {
	name    string
	config  Config
	log     *slog.Logger
	keyring *keyring
	net     *transport
	list    *memberlist.Memberlist
	queue   *memberlist.TransmitLimitedQueue
	metrics *metrics
	opened  time.Time // by a clock that nobody sets

	suspects  atomic.Int32 // pending verdicts, see countSuspects
	conflicts atomic.Uint64

	// mu guards the fields below. memberlist's callbacks take it, so hold it only
	// briefly, and never while calling memberlist.
	mu       sync.Mutex
	detector *detector
	facts    *factStore
	own      ownFacts
	subs     map[*Subscription]struct{}
	closed   bool
	stop     chan struct{}
	tasks    sync.WaitGroup
	leaves   sync.WaitGroup // running calls of memberlist's Leave; Shutdown waits for them
	sends    chan struct{}  // slots for sendBatch and syncWith
	checks   chan struct{}  // slots for probeSuspect
	meta     chan struct{}  // holds a token if metadata must be announced
	downOnce sync.Once
}

// maxSends and maxChecks bound how many background calls run at once. Further calls
// are dropped; the next sync or tick makes up for them.
const (
	maxSends  = 16
	maxChecks = 64
)

// New starts a member that knows no other member. Join brings it into a mesh.
func New(cfg Config) (*Gossip, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gossip config: %w", err)
	}
	if cfg.protocol == (protocolRange{}) {
		cfg.protocol = protocolRange{lowestProtocol, highestProtocol}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	ring, err := newKeyring(cfg.Keys)
	if err != nil {
		return nil, err
	}
	g := &Gossip{
		name: cfg.Name, config: cfg, keyring: ring, log: cfg.Logger,
		facts:  newFactStore(),
		subs:   make(map[*Subscription]struct{}),
		stop:   make(chan struct{}),
		sends:  make(chan struct{}, maxSends),
		checks: make(chan struct{}, maxChecks),
		meta:   make(chan struct{}, 1),
		opened: time.Now(),
	}
	if g.log == nil {
		g.log = slog.New(slog.DiscardHandler)
	}
	g.detector = newDetector(g.name, cfg.Profile, g.stateChanged)
	g.queue = &memberlist.TransmitLimitedQueue{RetransmitMult: factsTransmits, NumNodes: func() int { return 1 }}
	if err := g.setFirstFacts(cfg.Facts); err != nil {
		return nil, err
	}
	if err := g.start(); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *Gossip) setFirstFacts(f Facts) error {
	now := time.Now()
	if err := g.SetFacts(f); err != nil {
		return err
	}
	// memberlist reads the metadata itself when it starts.
	select {
	case <-g.meta:
	default:
	}
	// Even empty facts are announced, so that every member has a version of ours.
	g.mu.Lock()
	defer g.mu.Unlock()
	g.own.announced = time.Time{}
	g.own.dirty = [sectionSlots]bool{sectionLoad: true, sectionHost: true}
	g.announceFacts(now)
	return nil
}

// start opens the network and starts memberlist and all loops.
func (g *Gossip) start() error {
	inner := g.config.Transport
	bindPort, advertisePort := g.config.BindPort, g.config.AdvertisePort
	if inner == nil {
		nt, err := newNetTransport(g.config.BindAddr, bindPort, g.log)
		if err != nil {
			return fmt.Errorf("bind gossip to %s port %d: %w", g.config.BindAddr, bindPort, err)
		}
		inner, bindPort = nt, nt.port()
	}
	if advertisePort == 0 {
		advertisePort = bindPort
	}
	g.net = newTransport(inner, g.config.Mesh, newGatekeeper(g.config.Known, g.log),
		&tap{keys: g.keyring.keys, heard: g.heardIncoming, wants: func(k byte) bool { return k == wireDead }},
		&tap{keys: g.keyring.primary, heard: g.heardOutgoing, wants: g.wantsOutgoing}, g.packetFrom)
	g.metrics = newMetrics(g)
	list, err := memberlist.Create(g.listConfig(bindPort, advertisePort))
	if err != nil {
		_ = g.net.Shutdown()
		return fmt.Errorf("start gossip: %w", err)
	}
	g.list = list
	if err := g.metrics.register(g.config.Registerer); err != nil {
		g.Shutdown()
		return err
	}
	g.tasks.Go(g.tickLoop)
	g.tasks.Go(g.metaLoop)
	g.tasks.Go(g.reconnectLoop)
	return nil
}

// wantsOutgoing keeps the tap cheap: alive messages are decoded only while there is
// a suspect that they could clear.
func (g *Gossip) wantsOutgoing(kind byte) bool {
	return kind != wireAlive || g.suspects.Load() > 0
}

// listConfig returns the configuration of memberlist.
func (g *Gossip) listConfig(bindPort, advertisePort int) *memberlist.Config {
	p := g.config.Profile
	c := memberlist.DefaultLANConfig()
	c.Name, c.Label = g.name, g.config.Mesh
	c.Transport = g.net
	c.BindAddr, c.BindPort = g.config.BindAddr, bindPort
	c.AdvertiseAddr, c.AdvertisePort = g.config.AdvertiseAddr, advertisePort
	c.Keyring = g.keyring.ring
	c.Logger = newLibraryLogger(g.log, g.stop)

	c.ProbeInterval, c.ProbeTimeout = p.ProbeInterval, p.ProbeTimeout
	c.IndirectChecks = p.IndirectProbes
	c.SuspicionMult, c.SuspicionMaxTimeoutMult = p.SuspicionMult, p.SuspicionMaxMult
	c.AwarenessMaxMultiplier = p.HealthMax
	c.GossipInterval, c.GossipNodes, c.RetransmitMult = p.GossipInterval, p.GossipNodes, p.RetransmitMult
	c.PushPullInterval = p.SyncInterval
	// LZW compression costs 30 times as much as handling the message itself.
	c.EnableCompression = false
	c.TCPTimeout = 5 * time.Second
	c.GossipToTheDeadTime = 30 * time.Second
	// A host may come back with another address.
	c.DeadNodeReclaimTime = 5 * time.Second
	// When a partition heals, this many messages arrive at once.
	c.HandoffQueueDepth = 8192

	// What memberlist speaks, so that a new version of it does not change that by itself,
	// and what this package speaks.
	c.ProtocolVersion = memberlist.ProtocolVersion2Compatible
	c.DelegateProtocolVersion = g.config.protocol.lowest
	c.DelegateProtocolMin, c.DelegateProtocolMax = g.config.protocol.lowest, g.config.protocol.highest

	d := delegate{g}
	c.Delegate, c.Events, c.Conflict, c.Ping = d, d, d, d
	return c
}

// Name returns the name of this member.
func (g *Gossip) Name() string { return g.name }

// Addr returns the host:port at which other members reach this member.
func (g *Gossip) Addr() string { return g.list.LocalNode().Address() }

// Members returns every remembered member, this one included, sorted by name.
func (g *Gossip) Members() []Member {
	g.mu.Lock()
	defer g.mu.Unlock()
	ms := make([]Member, 0, len(g.detector.peers))
	for _, name := range slices.Sorted(maps.Keys(g.detector.peers)) {
		ms = append(ms, g.member(g.detector.peers[name]))
	}
	return ms
}

// Member returns the member with the given name, and false if none is remembered.
func (g *Gossip) Member(name string) (Member, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.detector.peers[name]
	if p == nil {
		return Member{}, false
	}
	return g.member(p), true
}

// Count returns how many members are in state s.
func (g *Gossip) Count(s State) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if int(s) >= len(g.detector.count) {
		return 0
	}
	return g.detector.count[s]
}

// Settled reports whether this member has run for as long as a member can be suspect before it is
// dead, and has looked twice for those that it misses: one of which it has heard nothing by then
// cannot be reached, or does not run. What a member that has just started does not hear says
// nothing.
func (g *Gossip) Settled() bool {
	g.mu.Lock()
	n := g.detector.live()
	g.mu.Unlock()
	p := g.config.Profile
	return time.Since(g.opened) >= max(p.suspicionLimit(n)+p.HoldFor(n), 2*g.config.ReconnectInterval)
}

// member combines what is known about a peer. The caller holds the lock.
func (g *Gossip) member(p *peer) Member {
	m := Member{Name: p.name, Addr: p.addr, State: p.state, Since: p.since}
	if p.name == g.name {
		m.Facts = g.own.facts
		return m
	}
	if f := g.facts.facts(p.name); f != nil {
		m.Facts = *f
	}
	if m.Facts.MeshAddr == "" {
		m.Facts.MeshAddr = p.meta.MeshAddr
		m.Facts.LowestFeatureLevel, m.Facts.FeatureLevel = p.meta.LowestFeatureLevel, p.meta.FeatureLevel
	}
	return m
}

// Subscribe returns a new subscription. After Shutdown its channel is closed.
func (g *Gossip) Subscribe() *Subscription {
	s := newSubscription(maxPendingEvents)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		s.Close()
		close(s.events)
		return s
	}
	g.subs[s] = struct{}{}
	g.tasks.Go(func() {
		s.deliverLoop()
		g.mu.Lock()
		delete(g.subs, s)
		g.mu.Unlock()
	})
	return s
}

// stateChanged is called by the detector when the published state of a peer changes.
// The caller holds the lock.
func (g *Gossip) stateChanged(p *peer) {
	if p.name != g.name {
		g.log.Info("member changed state", "member", p.name, "addr", p.addr, "state", p.state.String())
	}
	g.emitEvent(eventOf(p.state), p)
}

// emitEvent sends an event to every subscriber. The caller holds the lock.
func (g *Gossip) emitEvent(t EventType, p *peer) {
	if len(g.subs) == 0 {
		return
	}
	ev := Event{Type: t, Member: g.member(p)}
	for s := range g.subs {
		s.pushEvent(ev)
	}
}

// Leave announces that this member leaves on purpose. It returns when the message
// has been sent often enough to reach every member, or when ctx ends. The caller must
// call Shutdown afterwards.
func (g *Gossip) Leave(ctx context.Context) error {
	// memberlist takes a timeout and no context.
	timeout := 5 * time.Second
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond)
	}
	done := make(chan error, 1)
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrShutdown
	}
	g.leaves.Go(func() { done <- g.list.Leave(timeout) })
	g.mu.Unlock()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("leave the mesh: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("leave the mesh: %w", ctx.Err())
	}
}

// Shutdown stops this member and waits for its goroutines. Without an earlier Leave,
// the other members will find it dead. It may be called more than once.
func (g *Gossip) Shutdown() {
	g.downOnce.Do(func() {
		g.mu.Lock()
		g.closed = true
		close(g.stop)
		for s := range g.subs {
			s.Close()
		}
		g.mu.Unlock()
		g.metrics.unregister()
		g.leaves.Wait()
		health := g.list.GetHealthScore()
		// Its only error is the transport's, which is closed either way.
		_ = g.list.Shutdown()
		g.net.waitStreams()
		g.tasks.Wait()
		// memberlist does not wait for its own goroutines. With the streams
		// closed, what is left is a probe that waits for its answer.
		p := g.config.Profile
		time.Sleep(time.Duration(health+1)*p.ProbeInterval + p.ProbeTimeout)
	})
}

// startTask runs fn in a goroutine that Shutdown waits for. It returns false after
// Shutdown.
func (g *Gossip) startTask(fn func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.tasks.Go(fn)
	return true
}

// startBackground runs fn in a goroutine that Shutdown waits for, if a slot is free.
// Otherwise it drops fn. The caller holds the lock.
func (g *Gossip) startBackground(slots chan struct{}, fn func()) {
	if g.closed {
		return
	}
	select {
	case slots <- struct{}{}:
		g.tasks.Go(func() {
			defer func() { <-slots }()
			fn()
		})
	default:
	}
}
