package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/api"
	"virtmesh/agent/claims"
	"virtmesh/agent/heap"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/guests"
	"virtmesh/agent/stewards"
	operations "virtmesh/agent/stewards/operation"
	"virtmesh/agent/stewards/raise"
	"virtmesh/agent/stewards/roster"
	"virtmesh/gossip"
	"virtmesh/gossip/gossiptest"
	"virtmesh/raftstore"
)

// agentCommand is the argument that makes this program an agent without a hypervisor.
const agentCommand = "agent"

// agentSpec says what such an agent is to do.
type agentSpec struct {
	// Dir holds its replica.
	Dir string
	// Fill, if it has anything, is written into an empty replica; then the agent ends.
	Fill population
	// Hosts is how many hosts the mesh has; the agent is the one of number Index.
	Hosts int
	Index int
	// Replicas, if there are any, are where the replicas of the first hosts are reached.
	// Otherwise the agent's is the only one.
	Replicas []memberPlaces
	// Profile is the file that the profile of the heap is written to, if not empty.
	Profile string
}

// agentReady is what the agent prints when it has taken in everything.
type agentReady struct {
	// API is where it serves the Kubernetes API, without TLS and to everybody.
	API string
	// Seconds is how long that took from the opening of the store.
	Seconds float64
	// JoinSeconds is how long it took to get the state, Received how many bytes came meanwhile.
	JoinSeconds, Received float64
}

// runAgent is an agent until its input ends.
func runAgent(ctx context.Context, args []string, input io.Reader) error {
	if len(args) != 1 {
		return errors.New("agent: give what it is to do")
	}
	var spec agentSpec
	if err := json.Unmarshal([]byte(args[0]), &spec); err != nil {
		return fmt.Errorf("read what the agent is to do: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	var passed traffic
	store, err := openReplica(ctx, spec, &passed)
	if err != nil {
		return err
	}
	joined, received := time.Since(began).Seconds(), float64(passed.received.Load())
	defer store.Close()
	if spec.Fill != (population{}) {
		return spec.Fill.write(ctx, objects.FromRaft(store, nil))
	}
	a, err := newScaleAgent(spec, store)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	errs := make(chan error, 3)
	go heap.Keep(ctx)
	go func() { errs <- stewards.RunLoops(ctx, a.loops) }()
	go func() { errs <- a.api.Run(ctx) }()
	go func() {
		errs <- http.Serve(listener, port.AsHost(func() *x509.Certificate { return a.administrator }, a.api.Handler()))
	}()
	if err := a.awaitSync(ctx); err != nil {
		return err
	}
	ready := agentReady{"http://" + listener.Addr().String(), time.Since(began).Seconds(), joined, received}
	if err := json.NewEncoder(os.Stdout).Encode(ready); err != nil {
		return fmt.Errorf("tell that the agent is ready: %w", err)
	}
	go func() {
		errs <- errors.Join(answerQuestions(input, os.Stdout), writeProfile(spec.Profile))
	}()
	return <-errs
}

// answerQuestions answers each line of the input with the bytes that the agent keeps, in
// its heap and on its stacks.
func answerQuestions(input io.Reader, output io.Writer) error {
	lines := bufio.NewScanner(input)
	for lines.Scan() {
		runtime.GC()
		runtime.GC() // what pools keep goes with the second one
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		if err := json.NewEncoder(output).Encode(m.HeapAlloc + m.StackInuse); err != nil {
			return fmt.Errorf("tell what the agent keeps: %w", err)
		}
	}
	return lines.Err()
}

// writeProfile writes what the heap holds, for whoever looks for what to make smaller.
func writeProfile(path string) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write the profile: %w", err)
	}
	return errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
}

// newAdministrator returns the certificate that the API takes for that of whoever calls,
// which is its own CA.
func newAdministrator() (*x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: identity.AdminName, Organization: []string{identity.AdminOrganization}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// openReplica opens the replica of this host. It returns once it leads, or has joined the
// first host's.
func openReplica(ctx context.Context, spec agentSpec, passed *traffic) (*raftstore.Store, error) {
	cfg := raftstore.DefaultConfig()
	cfg.NodeID, cfg.DataDir, cfg.Bootstrap = hostName(spec.Index), spec.Dir, spec.Index == 0
	cfg.FeatureLevel.Highest = max(cfg.FeatureLevel.Highest, raftstore.FollowersLevel)
	cfg.Constraints, cfg.Logger = claims.Rules(), quiet()
	cfg.Registerer = prometheus.NewRegistry()
	if err := connectReplica(&cfg, spec, passed); err != nil {
		return nil, err
	}
	store, err := raftstore.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	if spec.Index > 0 {
		if err := store.Join(ctx, []string{spec.Replicas[0].Raft}); err != nil {
			return nil, errors.Join(err, store.Close())
		}
		if !follows(ctx, store) {
			return nil, errors.Join(fmt.Errorf("%s is in the Raft configuration", cfg.NodeID), store.Close())
		}
		return store, nil
	}
	for !store.IsLeader() {
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), store.Close())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return store, nil
}

// follows reports whether the leader knows a replica as a follower.
func follows(ctx context.Context, s *raftstore.Store) bool {
	own := s.Status(ctx)
	return slices.ContainsFunc(own.Peers, func(p raftstore.PeerStatus) bool { return p.ID == own.NodeID && p.Follower })
}

// connectReplica sets where a replica is reached, and whom it knows.
func connectReplica(cfg *raftstore.Config, spec agentSpec, passed *traffic) error {
	own := memberPlaces{Raft: "127.0.0.1:0", RPC: "127.0.0.1:0"}
	cfg.Addr = "127.0.0.1:1"
	rpc := map[string]string{}
	if len(spec.Replicas) > 0 {
		own = spec.Replicas[spec.Index]
		notary, err := openNotary(spec.Dir)
		if err != nil {
			return err
		}
		var members []raftstore.MemberHealth
		for i, p := range spec.Replicas {
			rpc[p.Raft] = p.RPC
			members = append(members, raftstore.MemberHealth{ID: hostName(i), Addr: p.Raft, Alive: true})
		}
		cfg.Addr, cfg.Signer, cfg.Voters.Max = own.Raft, notary, 1
		cfg.Members = func() []raftstore.MemberHealth { return members }
	}
	for _, l := range []struct {
		layer  *raftstore.StreamLayer
		place  string
		places map[string]string
	}{{&cfg.Raft, own.Raft, nil}, {&cfg.RPC, own.RPC, rpc}} {
		listener, err := net.Listen("tcp", l.place)
		if err != nil {
			return fmt.Errorf("listen for other replicas: %w", err)
		}
		*l.layer = &hostLayer{loopback{Listener: listener, places: l.places}, passed, new(atomic.Bool)}
	}
	return nil
}

func quiet() *slog.Logger {
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
}

// scaleAgent is what an agent consists of, but for what acts on its own host: its
// guests are few, however large the mesh is.
type scaleAgent struct {
	cache  *objects.Cache
	claims *claims.Cache
	loops  []stewards.Loop
	api    *api.Server
	// administrator is the certificate that the API takes for the caller's.
	administrator *x509.Certificate
}

func newScaleAgent(spec agentSpec, store *raftstore.Store) (*scaleAgent, error) {
	log, replica := quiet(), objects.FromRaft(store, nil)
	cacheConfig := objects.DefaultCacheConfig()
	cacheConfig.Store, cacheConfig.Logger = replica, log
	cache, err := objects.NewCache(cacheConfig)
	if err != nil {
		return nil, err
	}
	a := &scaleAgent{cache: cache, claims: claims.NewCache(cache, log)}
	recording := objects.DefaultRecorderConfig()
	recording.Store, recording.Component, recording.Host, recording.Logger = replica, "virtmesh", hostName(spec.Index), log
	recorder, err := objects.NewRecorder(recording)
	if err != nil {
		return nil, err
	}
	gossiping := gossip.DefaultConfig()
	gossiping.Name, gossiping.Mesh, gossiping.Transport = hostName(spec.Index), "bench", gossiptest.NewNetwork().Host(hostName(spec.Index))
	g, err := gossip.New(gossiping)
	if err != nil {
		return nil, err
	}
	members := allAlive(spec.Hosts)
	loops, err := roster.Loops(roster.Deps{
		Host: hostName(spec.Index), Store: stewards.Guard(replica), Cache: cache, Claims: a.claims, Recorder: recorder,
		Stewardship: stewards.NewStewardship(stewards.StewardshipConfig{Self: hostName(spec.Index), Members: members, Logger: log}),
		Gossip:      g, Members: members, Witness: members, Offers: nobodyOffers{}, Levels: steadyLevel{Replica: replica}, Acts: operations.Acts{},
		Logger: log, Metrics: prometheus.NewRegistry(),
	})
	if err != nil {
		return nil, err
	}
	objectLoop := stewards.Loop{Name: "objects", Run: func(ctx context.Context) error { cache.Run(ctx); return nil }}
	a.loops = slices.Concat(loops, []stewards.Loop{objectLoop})
	serving := api.DefaultConfig()
	serving.Store, serving.Instances, serving.Logger = replica, unreachableGuests{}, log
	if a.administrator, err = newAdministrator(); err != nil {
		return nil, err
	}
	serving.ClientCAs = func() *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(a.administrator)
		return pool
	}
	serving.Defaults = roster.Defaults(cache)
	a.api, err = api.New(serving)
	return a, err
}

// awaitSync returns when the caches are full.
func (a *scaleAgent) awaitSync(ctx context.Context) error {
	return errors.Join(
		a.claims.WaitForSync(ctx),
		objects.For[*kubevirtv1.VirtualMachine](a.cache).WaitForSync(ctx),
		objects.For[*kubevirtv1.VirtualMachineInstance](a.cache).WaitForSync(ctx),
		objects.For[*corev1.PersistentVolumeClaim](a.cache).WaitForSync(ctx),
		objects.For[*corev1.Node](a.cache).WaitForSync(ctx),
	)
}

// allAlive is a mesh of so many hosts that all live.
type allAlive int

// Members implements stewards.Members.
func (n allAlive) Members() []string {
	names := make([]string, n)
	for i := range names {
		names[i] = hostName(i)
	}
	return names
}

// Silent implements nodes.Witness.
func (allAlive) Silent(context.Context, string) (bool, error) { return false, nil }

// Subscribe implements stewards.Members.
func (allAlive) Subscribe(func()) (cancel func()) { return func() {} }

// steadyLevel is a mesh whose feature level nobody can raise.
type steadyLevel struct {
	raise.Mesh
	*objects.Replica
}

// FeatureLevel implements raise.Mesh.
func (l steadyLevel) FeatureLevel() uint32 { return l.Replica.FeatureLevel() }

// LevelHosts implements raise.Mesh.
func (steadyLevel) LevelHosts() []level.Host { return nil }

// nobodyOffers refuses every instance.
type nobodyOffers struct{}

// Offer implements schedule.Offers.
func (nobodyOffers) Offer(context.Context, string, claims.OfferRequest) (claims.Offer, error) {
	return claims.Offer{Reason: "nothing is placed here"}, nil
}

// unreachableGuests has no guests.
type unreachableGuests struct{ guests.Instances }
