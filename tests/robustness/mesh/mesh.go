package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Config describes a Mesh.
type Config struct {
	// Dir holds the data of the replicas. It must exist.
	Dir string
	// Allocatable is what guests may use of each host.
	Allocatable machine.Resources
	// Gossip is the timing of gossip. A slower one makes long stories cheaper.
	Gossip gossip.Profile
	// ForgetAfter is how long a replica must be dead before it is removed from its group.
	ForgetAfter time.Duration
	// Lag is how long after a change the caches of all hosts show it, besides what the
	// replicas need.
	Lag time.Duration
	// Faults are what every host refuses at first, see Host.SetFaults.
	Faults Faults
	// Seed decides what a loss of power leaves on a disk.
	Seed uint64
	// Logger receives the log of all agents; each line names its host.
	Logger *slog.Logger
}

// DefaultConfig returns a Config that needs Dir.
func DefaultConfig() Config {
	return Config{
		Allocatable: machine.Resources{CPUMilli: 8000, MemoryBytes: 8 << 30, EphemeralBytes: 100 << 30},
		Gossip:      gossip.DefaultProfile(),
		ForgetAfter: raftstore.DefaultConfig().Voters.ForgetAfter,
		Logger:      slog.New(slog.DiscardHandler),
	}
}

// Mesh is a number of hosts on a simulated network. Its methods are called by one
// goroutine, the one that tells the story.
type Mesh struct {
	// History is what has happened so far.
	History *History

	cfg    Config
	links  *links
	hosts  map[string]*Host
	names  []string // in the order of Add
	ctx    context.Context
	cancel context.CancelFunc
	loops  sync.WaitGroup
}

// New returns a mesh without hosts.
func New(cfg Config) *Mesh {
	m := &Mesh{History: newHistory(), cfg: cfg, links: newLinks(), hosts: map[string]*Host{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.loops.Go(m.sample)
	return m
}

// Add adds a host that is switched off. The first host founds the mesh. A later one
// becomes a member once a live host can commit its record.
func (m *Mesh) Add(ctx context.Context, name string) (*Host, error) {
	key, err := identity.NewKey()
	if err != nil {
		return nil, fmt.Errorf("add host %s: %w", name, err)
	}
	h := &Host{
		Name: name, mesh: m, key: key, node: identity.NewNode(name), address: name + ":7443", machine: hypervisortest.NewMachine(),
		founder: len(m.names) == 0, faults: m.cfg.Faults, booted: time.Now(),
		disk: raftstoretest.NewDisk(), chance: rand.New(rand.NewPCG(m.cfg.Seed, uint64(len(m.names)))),
	}
	h.eyes = h.machine.Open()
	m.links.add(h)
	if !h.founder {
		store, err := m.anyStore()
		if err != nil {
			return nil, fmt.Errorf("add host %s: %w", name, err)
		}
		if err := h.enrol(ctx, store); err != nil {
			return nil, fmt.Errorf("add host %s: %w", name, err)
		}
	}
	m.hosts[name] = h
	m.names = append(m.names, name)
	return h, nil
}

// Start makes a mesh of n hosts, named host1 and so on, and waits until all of them are
// replicas.
func (m *Mesh) Start(ctx context.Context, n int) error {
	for i := range n {
		h, err := m.Add(ctx, fmt.Sprintf("host%d", i+1))
		if err != nil {
			return err
		}
		if err := h.Start(); err != nil {
			return err
		}
		if err := h.AwaitMember(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Host returns the host of a name, nil if there is none.
func (m *Mesh) Host(name string) *Host { return m.hosts[name] }

// Hosts returns all hosts in the order in which they were added.
func (m *Mesh) Hosts() []*Host {
	list := make([]*Host, 0, len(m.names))
	for _, name := range m.names {
		list = append(list, m.hosts[name])
	}
	return list
}

// members returns the agents that run as members. That of a host that was removed is none,
// even if it does not know it.
func (m *Mesh) members() []*agent {
	var list []*agent
	for _, h := range m.Hosts() {
		if a := h.running(); a != nil && a.isMember() && !h.removed {
			list = append(list, a)
		}
	}
	return list
}

// errNobody is returned when no host has a running agent.
var errNobody = errors.New("no host of the mesh runs an agent")

// anyStore returns the replica of a host whose agent runs.
func (m *Mesh) anyStore() (*raftstore.Store, error) {
	for _, a := range m.members() {
		return a.store, nil
	}
	return nil, errNobody
}

// userTimeout bounds one attempt of a user at one host.
const userTimeout = 15 * time.Second

// Commit writes a transaction as a user does: at one host after the other, until ctx
// ends. build is called for each attempt.
func (m *Mesh) Commit(ctx context.Context, build func(ctx context.Context, store objects.Store, tx *objects.Tx) error) error {
	err := errNobody
	for ctx.Err() == nil {
		for _, a := range m.members() {
			if err = m.commitAt(ctx, a, build); err == nil {
				return nil
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
	return fmt.Errorf("write as a user: %w", err)
}

func (m *Mesh) commitAt(ctx context.Context, a *agent, build func(context.Context, objects.Store, *objects.Tx) error) error {
	ctx, cancel := context.WithTimeout(ctx, userTimeout)
	defer cancel()
	store := written{objects.FromRaft(a.store, nil), a, "user"}
	tx := objects.Tx{Clock: a.host.Now}
	if err := build(ctx, store, &tx); err != nil {
		return err
	}
	_, err := tx.Commit(ctx, store)
	if a.dead.Load() {
		return errKilled // nobody is there to tell the user
	}
	return err
}

// Replicas returns the names of the hosts that have a replica in the group, as the leader
// knows them, in order; nil if no leader answers.
func (m *Mesh) Replicas(ctx context.Context) []string {
	for _, a := range m.members() {
		var names []string
		for _, peer := range a.store.Status(ctx).Peers {
			names = append(names, peer.ID)
		}
		if len(names) > 0 {
			slices.Sort(names)
			return names
		}
	}
	return nil
}

// LogIndex returns the highest index of the log that a replica knows to be committed. It
// grows with the entries that Raft writes for itself too, at an election for example.
func (m *Mesh) LogIndex() (highest uint64) {
	for _, a := range m.members() {
		highest = max(highest, a.store.Status(m.ctx).CommitIndex)
	}
	return highest
}

// Leader returns the name of the host whose replica leads; empty if none does.
func (m *Mesh) Leader() string {
	for _, a := range m.members() {
		if a.store.IsLeader() {
			return a.host.Name
		}
	}
	return ""
}

// Close kills every agent and waits for all.
func (m *Mesh) Close() {
	m.Heal()
	var ending sync.WaitGroup
	for _, h := range m.Hosts() {
		ending.Go(h.Kill)
	}
	ending.Wait()
	m.cancel()
	m.loops.Wait()
	for _, h := range m.Hosts() {
		h.eyes.Close()
	}
}

// sample looks at all guests every second.
func (m *Mesh) sample() {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
			m.History.noteGuests(m.links.all())
		}
	}
}
