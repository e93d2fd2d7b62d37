package mesh

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/hypervisortest"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/membership"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Host is a machine of the mesh: what outlives its agent.
type Host struct {
	// Name is the host's name in the mesh.
	Name string

	mesh                   *Mesh
	node                   identity.Node
	key                    *ecdsa.PrivateKey
	address, gossipAddress string
	founder, removed       bool
	machine                *hypervisortest.Machine
	eyes                   *hypervisortest.Fake // by which the mesh looks at the guests
	book                   seedBook
	voters                 voterBook
	disk                   *raftstoretest.Disk
	cpu                    processor
	clock                  clock
	booted                 time.Time

	mu     sync.Mutex
	agent  *agent // nil while none runs
	faults Faults
	chance *rand.Rand // of the disk
}

// Faults are what a host refuses, for reasons of its own. A function that is nil refuses
// nothing. They are called by several hosts at once.
type Faults struct {
	// Offer returns why the host refuses to take an instance, empty if it takes it.
	Offer func() string
	// Prepare returns why the volumes of an instance cannot be prepared.
	Prepare func(vmi *kubevirtv1.VirtualMachineInstance) error
	// Start returns why the emulator does not start a domain.
	Start func(xml string) error
}

// SetFaults replaces what the host refuses.
func (h *Host) SetFaults(faults Faults) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = faults
}

// refuses returns what the host refuses now, without functions that are nil.
func (h *Host) refuses() Faults {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.faults
	if f.Offer == nil {
		f.Offer = func() string { return "" }
	}
	if f.Prepare == nil {
		f.Prepare = func(*kubevirtv1.VirtualMachineInstance) error { return nil }
	}
	if f.Start == nil {
		f.Start = func(string) error { return nil }
	}
	return f
}

// Machine returns the host's hypervisor, on which outside events can be played.
func (h *Host) Machine() *hypervisortest.Machine { return h.machine }

// running returns the agent, nil if none runs.
func (h *Host) running() *agent {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.agent
}

// Running reports whether the agent runs.
func (h *Host) Running() bool { return h.running() != nil }

// record returns the mesh's record of the host.
func (h *Host) record() identity.HostRecord {
	return identity.HostRecord{
		Name: h.Name, ID: h.node.ID, MeshAddress: h.address, GossipAddress: h.gossipAddress,
		Version: "v1", FeatureLevel: level.Highest, Joined: h.Now(), KeyPin: h.keyPin().String(), KeyKept: true,
	}
}

// enrol makes the machine a host of the mesh, as a token does.
func (h *Host) enrol(ctx context.Context, store *raftstore.Store) error {
	value, err := json.Marshal(h.record())
	if err != nil {
		return fmt.Errorf("enrol %s: %w", h.Name, err)
	}
	key := identity.HostKey(h.Name)
	if _, err := store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: key}}, Ops: []raftstore.Op{{Key: key, Value: value}}}); err != nil {
		return fmt.Errorf("enrol %s: %w", h.Name, err)
	}
	others, err := identity.NewHosts(store).List(ctx, raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("enrol %s: %w", h.Name, err)
	}
	var seeds []identity.Seed
	for _, other := range others {
		if other.Name != h.Name {
			seeds = append(seeds, identity.Seed{Host: other.Name, MeshAddress: other.MeshAddress, GossipAddress: other.GossipAddress})
		}
	}
	return h.book.SetSeeds(seeds)
}

func (h *Host) dataDir() string { return filepath.Join(h.mesh.cfg.Dir, h.Name) }

// Start starts the agent, after a power loss the machine too. It does not wait until the
// host is a member.
func (h *Host) Start() error { return h.start(0) }

// StartAndKillAfter starts an agent that is killed at the given step from now: before or
// after it writes to the mesh, or acts on a guest; see FailAtDisk for the steps of the disk.
func (h *Host) StartAndKillAfter(steps int) error { return h.start(steps) }

func (h *Host) start(steps int) error {
	if h.Running() {
		return fmt.Errorf("start %s: its agent runs", h.Name)
	}
	a, err := newAgent(h, steps)
	if err != nil {
		return fmt.Errorf("start %s: %w", h.Name, err)
	}
	h.mu.Lock()
	h.agent = a
	h.mu.Unlock()
	h.mesh.links.setOff(h.Name, false)
	h.mesh.History.note(h.Name, "the agent starts")
	a.startLiving()
	return nil
}

// AwaitMember waits until the host has a copy of the mesh's state and runs its loops.
func (h *Host) AwaitMember(ctx context.Context) error {
	a := h.running()
	if a == nil {
		return fmt.Errorf("await %s: its agent does not run", h.Name)
	}
	select {
	case <-a.member:
		return nil
	case <-a.ended:
		return fmt.Errorf("await %s: %w", h.Name, a.failure())
	case <-ctx.Done():
		return fmt.Errorf("await %s: %w", h.Name, context.Cause(ctx))
	}
}

// Kill kills the agent. Guests run on. It returns when nothing is left of the process.
func (h *Host) Kill() { h.end(death{}) }

// LosePower ends the agent and all guests, and what was not synced to the disk is lost.
// Start switches the host on again.
func (h *Host) LosePower() { h.end(death{power: true}) }

// death is how an agent ends.
type death struct{ power bool }

// end ends the agent, if it runs, and waits until nothing is left of it.
func (h *Host) end(d death) {
	a := h.running()
	if a == nil {
		if d.power {
			h.machine.PowerLoss()
		}
		return
	}
	a.die(d)
	<-a.ended
	if d.power {
		h.machine.PowerLoss() // what the dying agent started meanwhile
	}
}

// FailAtDisk makes the agent end before the given step of its disk from now on: it is
// killed, or the host loses its power.
func (h *Host) FailAtDisk(step int, power bool) {
	if a := h.running(); a != nil {
		h.disk.Before(step, func() { a.die(death{power}) })
	}
}

// FillDisk makes the disk of the replica full, or gives it room again.
func (h *Host) FillDisk(full bool) {
	h.mesh.History.note(h.Name, "the disk is full: %v", full)
	h.disk.Fill(full)
}

// Guests returns the guests that run on the host.
func (h *Host) Guests() []hypervisor.Domain {
	domains, err := h.eyes.List(context.Background())
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(domains, func(d hypervisor.Domain) bool { return !d.State.Active() })
}

// seedBook keeps what an identity would keep on disk.
type seedBook struct {
	mu    sync.Mutex
	seeds []identity.Seed
}

var _ membership.SeedBook = (*seedBook)(nil)

// Info implements membership.SeedBook.
func (b *seedBook) Info() identity.Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	return identity.Info{Seeds: slices.Clone(b.seeds)}
}

// SetSeeds implements membership.SeedBook.
func (b *seedBook) SetSeeds(seeds []identity.Seed) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seeds = slices.Clone(seeds)
	return nil
}
