package host

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/firmware"
	"virtmesh/agent/host/metrics"
	"virtmesh/agent/host/network"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/reserve"
	"virtmesh/agent/host/volumes"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/guests"
	"virtmesh/agent/stewards"
	"virtmesh/gossip"
)

// Self names the host, its address and its state directory.
type Self struct {
	// Name is the host's name in the mesh.
	Name string
	// Advertise is the IP address that other hosts reach this one by.
	Advertise string
	// StateDir holds images, volumes and the files that must outlive the agent.
	StateDir string
	// RunDir holds volatile files.
	RunDir string
	// Facts are those that do not depend on what the host can run: its address,
	// zone, labels and version.
	Facts gossip.Facts
}

// Mesh is what the host needs to know about the other hosts, and its way to tell them
// its facts.
type Mesh interface {
	// SetFacts tells the mesh what this host can carry.
	SetFacts(facts gossip.Facts) error
	// Subscribe calls fn after the membership may have changed, until cancel.
	Subscribe(fn func()) (cancel func())
	// ProtectedAddresses returns the addresses of the hosts, to which guests may not open
	// connections, and from which no images are fetched. It does not block.
	ProtectedAddresses() []netip.Prefix
	// Removed reports whether a host was removed from the mesh, by a linearizable read.
	Removed(ctx context.Context, name string) (bool, error)
}

// Deps are what the agent gives its host's part. All are required.
type Deps struct {
	Self  Self
	Store objects.Store
	// Secrets is Store with what is encrypted in it opened.
	Secrets     objects.Store
	Cache       *objects.Cache
	Claims      *claims.Cache
	Recorder    *objects.Recorder
	Stewardship *stewards.Stewardship
	Mesh        Mesh
	// Confirm returns once what this host knows of the mesh is certain, see
	// raftstore.Store.Confirm.
	Confirm func(ctx context.Context) error
	// ReachesLeader reports whether this host learns of new claims and can act on them, see
	// raftstore.Store.ReachesLeader.
	ReachesLeader func(context.Context) bool
	// Subnet is this host's part of the default guest network. A witness has none.
	Subnet  netip.Prefix
	Logger  *slog.Logger
	Metrics prometheus.Registerer
}

// Host is the part of an agent that looks after this host's guests. Its methods
// may be called at once.
type Host struct {
	platform    *platform
	instances   *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	pools       *poolSet
	reserve     *reserve.Reserve
	disks       disks
	provisioner *volumes.Provisioner
	volumes     *volumes.Volumes
	firmware    *firmware.Store
	network     *network.Network
	executor    *executor.Executor
	guests      guests.Instances
	judge       *offer.Judge
	offerer     guests.Offerer
	publisher   *publish.Publisher
	loops       []stewards.Loop
	// closers close what Open has opened, the last one first.
	closers []func()
}

// Open finds out what the host can run, or opens it as a witness if config says so, and opens the hypervisor, storage and network
// for it. Nothing runs before the loops do. ctx bounds Open; Close closes the Host.
func Open(ctx context.Context, config Config, deps Deps) (*Host, error) {
	if config.Role == RoleWitness {
		return openWitness(ctx, deps)
	}
	p, err := openPlatform(ctx, config, deps.Self.StateDir, deps.Logger)
	if err != nil {
		return nil, err
	}
	return assembleHost(ctx, config, deps, p)
}

// assembleHost opens what the host needs besides its platform. It closes the platform's
// hypervisor if it returns an error.
func assembleHost(ctx context.Context, config Config, deps Deps, p *platform) (_ *Host, err error) {
	h := &Host{platform: p, instances: objects.For[*kubevirtv1.VirtualMachineInstance](deps.Cache)}
	defer func() {
		if err != nil {
			h.Close()
		}
	}()
	h.onClose(func() { h.platform.hypervisor.Close() })
	h.judge = &offer.Judge{
		Host: deps.Self.Name, Ability: h.platform.Ability, OnHost: deps.Claims.OnHost, ReachesLeader: deps.ReachesLeader,
		MayStart: h.platform.MayStart,
	}
	h.offerer = h.judge
	if err := h.openStorage(ctx, config, deps); err != nil {
		return nil, err
	}
	h.judge.Room = h.disks.check
	if err := h.openNetwork(config.Network, deps); err != nil {
		return nil, err
	}
	if err := h.openExecutor(config, deps); err != nil {
		return nil, err
	}
	if err := h.showGuests(deps); err != nil {
		return nil, err
	}
	if err := h.addLoops(deps); err != nil {
		return nil, err
	}
	return h, nil
}

// emulatorLogDir is where libvirt's system daemon keeps a log for each domain.
const emulatorLogDir = "/var/log/libvirt/qemu"

func (h *Host) openExecutor(config Config, deps Deps) error {
	uid, _, err := qemuUser(config.Hypervisor.User)
	if err != nil {
		return err
	}
	h.executor, err = executor.New(executor.Config{
		Host: deps.Self.Name, Store: deps.Store, Confirm: deps.Confirm, Instances: h.instances, Hypervisor: h.platform.hypervisor,
		Volumes: h.volumes, Network: h.network, GuestDevice: network.PodBridge, Firmware: h.firmware, Events: deps.Recorder,
		Machine: h.platform.Info, MayStart: h.platform.MayStart, LogDir: filepath.Join(deps.Self.StateDir, "consoles"), EmulatorLogDir: emulatorLogDir,
		RuntimeUser: uint64(uid), Logger: deps.Logger.With("part", "executor"),
	})
	if err != nil {
		return err
	}
	h.onClose(func() { h.executor.Close() })
	h.guests = h.executor.Guests()
	return nil
}

// showGuests registers the metrics of this host's guests.
func (h *Host) showGuests(deps Deps) error {
	here := objects.NewIndex(h.instances, func(vmi *kubevirtv1.VirtualMachineInstance) []objects.Key {
		if vmi.Status.NodeName != deps.Self.Name {
			return nil
		}
		return []objects.Key{objects.KeyOf(vmi)}
	})
	cfg := metrics.DefaultConfig()
	cfg.Host, cfg.Hypervisor, cfg.Instances = deps.Self.Name, h.platform.hypervisor, func() []*kubevirtv1.VirtualMachineInstance { return here.List("") }
	cfg.Logger = deps.Logger.With("part", "metrics")
	collector, err := metrics.New(cfg)
	if err != nil {
		return err
	}
	return deps.Metrics.Register(collector)
}

// onClose adds a function that Close calls.
func (h *Host) onClose(undo func()) { h.closers = append(h.closers, undo) }

// Close closes what Open has opened, in reverse order. The loops have ended before.
// Guests keep running.
func (h *Host) Close() {
	for _, undo := range slices.Backward(h.closers) {
		undo()
	}
	h.closers = nil
}

// Loops are what must run as long as the agent does.
func (h *Host) Loops() []stewards.Loop { return h.loops }

// Guests reaches the guests of this host.
func (h *Host) Guests() guests.Instances { return h.guests }

// Offerer answers requests for an offer of this host.
func (h *Host) Offerer() guests.Offerer { return h.offerer }

// Pause stops the publishing of the host's Node and capacity until Resume. After Pause
// has returned, nothing that is withdrawn is published again.
func (h *Host) Pause(ctx context.Context) error { return h.publisher.Pause(ctx) }

// Resume ends a pause.
func (h *Host) Resume() { h.publisher.Resume() }

// Bury ends the claims under deletion whose volumes were on the disks of a host
// that is gone for good.
func (h *Host) Bury(ctx context.Context, host string) error { return h.provisioner.Bury(ctx, host) }
