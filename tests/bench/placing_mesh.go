package main

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/schedule"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// placingMesh is a mesh of 500 hosts as placement sees it. Three of them are real as far
// as placement needs them: a replica of the store on disk, the caches and the steward.
// The others exist as facts, as Nodes and capacities, and answer offers by the rules of
// the real judge.
type placingMesh struct {
	stores []*raftstore.Store
	hosts  []*placingHost
	facts  *placingFacts
	keys   *raftstoretest.Keys // with which the replicas sign
	placed chan struct{}       // closed when all instances have claims
	failed chan error
	cancel context.CancelFunc
	loops  sync.WaitGroup
}

// placingHost is a host with a replica and a steward.
type placingHost struct {
	claims *claims.Cache
}

func newPlacingMesh(ctx context.Context, dir string) (_ *placingMesh, err error) {
	m := &placingMesh{keys: raftstoretest.NewKeys(), placed: make(chan struct{}), failed: make(chan error, 1), facts: newPlacingFacts()}
	ctx, m.cancel = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			m.stop()
		}
	}()
	network := raftstoretest.NewNetwork()
	for i := range placingReplicas {
		if err := m.openReplica(ctx, network, i, dir); err != nil {
			return nil, err
		}
	}
	if err := m.awaitVoters(ctx); err != nil {
		return nil, err
	}
	if err := m.publishHosts(ctx); err != nil {
		return nil, err
	}
	m.loops.Go(func() { m.facts.change(ctx) })
	for i := range placingReplicas {
		if err := m.startSteward(ctx, i); err != nil {
			return nil, err
		}
	}
	m.countPlaced()
	return m, nil
}

func (m *placingMesh) stop() {
	m.cancel()
	m.loops.Wait()
	for _, s := range m.stores {
		if err := s.Close(); err != nil {
			progressf("placement: close a replica: %v", err)
		}
	}
}

// openReplica opens a replica as an agent does, but may let it vote at once.
func (m *placingMesh) openReplica(ctx context.Context, network *raftstoretest.Network, i int, dir string) error {
	cfg := raftstore.DefaultConfig()
	cfg.NodeID, cfg.Addr = hostName(i), hostName(i)+":7000"
	cfg.DataDir = filepath.Join(dir, cfg.NodeID)
	cfg.Bootstrap, cfg.Constraints = i == 0, claims.Rules()
	cfg.Voters.Stabilization = 500 * time.Millisecond
	cfg.Voters.Update, cfg.Voters.Reconcile = 200*time.Millisecond, 200*time.Millisecond
	cfg.Raft, cfg.RPC = network.Listen("raft", cfg.Addr), network.Listen("rpc", cfg.Addr)
	cfg.Logger, cfg.Signer = benchLog(), m.keys.Signer(cfg.NodeID)
	store, err := raftstore.Open(ctx, cfg)
	if err != nil {
		return err
	}
	m.stores = append(m.stores, store)
	if i == 0 {
		return nil
	}
	return store.Join(ctx, []string{hostName(0) + ":7000"})
}

func (m *placingMesh) awaitVoters(ctx context.Context) error {
	for {
		if len(m.stores[0].Status(ctx).Voters) == placingReplicas {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %d voters: %w", placingReplicas, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// publishHosts writes the Nodes and the capacities of all hosts.
func (m *placingMesh) publishHosts(ctx context.Context) error {
	for i := range placingHosts {
		member := m.facts.Members()[i]
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: member.Name, Labels: member.Facts.Labels}}
		var tx objects.Tx
		tx.Create(node)
		claims.Publish(&tx, claims.Capacity{Host: member.Name, Allocatable: placingCapacity})
		if _, err := tx.Commit(ctx, objects.FromRaft(m.stores[0], nil)); err != nil {
			return fmt.Errorf("publish %s: %w", member.Name, err)
		}
	}
	return nil
}

var placingCapacity = machine.Resources{CPUMilli: 64_000, MemoryBytes: 256 << 30}

// startSteward starts what an agent runs for placement.
func (m *placingMesh) startSteward(ctx context.Context, i int) error {
	store, log := objects.FromRaft(m.stores[i], nil), benchLog()
	cacheCfg := objects.DefaultCacheConfig()
	cacheCfg.Store, cacheCfg.Logger = store, log
	cache, err := objects.NewCache(cacheCfg)
	if err != nil {
		return err
	}
	recorderCfg := objects.DefaultRecorderConfig()
	recorderCfg.Store, recorderCfg.Component, recorderCfg.Host, recorderCfg.Logger = store, "virtmesh", hostName(i), log
	recorder, err := objects.NewRecorder(recorderCfg)
	if err != nil {
		return err
	}
	h := &placingHost{claims: claims.NewCache(cache, log)}
	m.hosts = append(m.hosts, h)
	cfg := schedule.DefaultConfig()
	cfg.Deps = stewards.Deps{
		Store: store, Cache: cache, Claims: h.claims, Recorder: recorder, Logger: log,
		Stewardship: stewards.NewStewardship(stewards.StewardshipConfig{Self: hostName(i), Members: placingStewards{}}),
	}
	cfg.View = schedule.NewView(store, cache, h.claims, m.facts)
	cfg.Offers, cfg.Volumes = placingOffers{h}, schedule.FromClaims(cache)
	controller, err := schedule.New(cfg)
	if err != nil {
		return err
	}
	m.loops.Go(func() { cache.Run(ctx) })
	m.loops.Go(func() { recorder.Run(ctx) })
	m.loops.Go(func() {
		viewed := make(chan struct{})
		var view sync.WaitGroup
		defer view.Wait()
		view.Go(func() { cfg.View.Run(ctx, sync.OnceFunc(func() { close(viewed) })) })
		select {
		case <-viewed:
		case <-ctx.Done():
			return
		}
		if err := controller.Run(ctx); err != nil && ctx.Err() == nil {
			m.failed <- err
		}
	})
	return nil
}

// countPlaced closes m.placed when the first host knows all claims.
func (m *placingMesh) countPlaced() {
	seen := 0
	m.hosts[0].claims.AddHandler(func(ev claims.Event) {
		if ev.Instance == nil || ev.Instance.Old != nil {
			return
		}
		if seen++; seen == placingInstances {
			close(m.placed)
		}
	})
}

// placingStewards are the hosts that decide.
type placingStewards struct{}

var _ stewards.Members = placingStewards{}

// Members implements stewards.Members.
func (placingStewards) Members() []string {
	return []string{hostName(0), hostName(1), hostName(2)}
}

// Subscribe implements stewards.Members.
func (placingStewards) Subscribe(func()) (cancel func()) { return func() {} }

// placingOffers ask the judge of a host, which here sees the claims that the steward sees.
type placingOffers struct{ *placingHost }

var _ schedule.Offers = placingOffers{}

// Offer implements schedule.Offers.
func (o placingOffers) Offer(ctx context.Context, host string, r claims.OfferRequest) (claims.Offer, error) {
	judge := offer.Judge{
		Host: host, Ability: func() (offer.Ability, error) { return offer.Ability{Allocatable: placingCapacity}, nil }, OnHost: o.claims.OnHost, ReachesLeader: func(context.Context) bool { return true },
	}
	return judge.Offer(ctx, r)
}

// placingFacts are the facts of the hosts, some of which change all the time.
type placingFacts struct {
	mu      sync.Mutex
	members []gossip.Member
	index   map[string]int
	subs    []func(host string)
}

var _ schedule.Facts = (*placingFacts)(nil)

// newPlacingFacts describes hosts with as many labels as a host has whose machine types
// and CPU models are published.
func newPlacingFacts() *placingFacts {
	f := &placingFacts{index: map[string]int{}}
	for i := range placingHosts {
		labels := map[string]string{corev1.LabelHostname: hostName(i), "disk": []string{"ssd", "hdd"}[i%2]}
		emulator := machine.Emulator{MaxVCPUs: 255, EFI: true, TPM: true}
		for n := range 60 {
			emulator.MachineTypes = append(emulator.MachineTypes, fmt.Sprintf("pc-q35-%02d.0", n))
			labels[fmt.Sprintf("cpu-model.node.kubevirt.io/model%d", n)] = "true"
		}
		emulator.SetLabels(labels)
		f.index[hostName(i)] = i
		f.members = append(f.members, gossip.Member{
			Name: hostName(i), State: gossip.Alive, Facts: gossip.Facts{KVM: true, Zone: fmt.Sprint("zone", i%5), Labels: labels},
		})
	}
	return f
}

// change changes the load of one host in a hundred, ten times a second, until ctx ends.
func (f *placingFacts) change(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for range placingHosts / 100 {
			i := rand.N(placingHosts)
			f.mu.Lock()
			f.members[i].Facts.Load = rand.Float64()
			subs := f.subs
			f.mu.Unlock()
			for _, fn := range subs {
				fn(hostName(i))
			}
		}
	}
}

// Members implements schedule.Facts.
func (f *placingFacts) Members() []gossip.Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]gossip.Member(nil), f.members...)
}

// Member implements schedule.Facts.
func (f *placingFacts) Member(name string) (gossip.Member, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, ok := f.index[name]
	if !ok {
		return gossip.Member{}, false
	}
	return f.members[i], true
}

// Subscribe implements schedule.Facts.
func (f *placingFacts) Subscribe(fn func(host string)) (cancel func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(f.subs, fn)
	return func() {}
}

// benchLog writes errors to stderr.
func benchLog() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}
