package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/executor"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/agent/host/hypervisor/libvirt"
	"virtmesh/agent/host/metrics"
	"virtmesh/agent/host/network"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/host/volumes"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/guests"
	"virtmesh/agent/stewards"
	"virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/storage/containerdisk"
	"virtmesh/storage/ephemeral"
)

// host is the part of an agent that runs control loops and looks after this
// host's guests.
type host struct {
	config  Config
	version string
	log     *slog.Logger
	metrics prometheus.Registerer

	gossip  *gossip.Gossip
	raft    *raftstore.Store
	replica *objects.Replica // raft, as a store of objects
	store   objects.Store    // the same; tests put another in its place

	cache       *objects.Cache
	claims      *claims.Cache
	nodes       *objects.Informer[*corev1.Node]
	instanceSet *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	recorder    *objects.Recorder
	stewardship *stewards.Stewardship

	hypervisor   hypervisor.Hypervisor
	capabilities hypervisor.Capabilities
	kvm          kvmprobe.Result
	allocatable  vmi.Resources

	provisioner *volumes.Provisioner
	volumes     *volumes.Volumes
	network     *network.Network
	executor    *executor.Executor
	router      *guests.Router
	publisher   *publish.Publisher
	judge       *offer.Judge

	// loops run until the agent stops.
	loops []loop
}

// loop is one thing that runs as long as the agent does.
type loop struct {
	name string
	run  func(context.Context) error
}

func (a *Agent) startHost(ctx context.Context) error {
	replica := objects.FromRaft(a.store, nil)
	h := &host{
		config: a.config, version: a.version, log: a.log, metrics: a.metrics,
		gossip: a.gossip, raft: a.store, replica: replica, store: replica,
	}
	a.host = h
	if err := h.openObjects(); err != nil {
		return err
	}
	a.onStop(func(context.Context) { h.stewardship.Close() })
	if err := h.openHypervisor(ctx); err != nil {
		return err
	}
	a.onStop(func(context.Context) { h.hypervisor.Close() })
	if err := h.openStorage(a); err != nil {
		return err
	}
	if err := h.openNetwork(ctx, a); err != nil {
		return err
	}
	if err := h.openExecutor(); err != nil {
		return err
	}
	a.onStop(func(context.Context) { h.executor.Close() })
	h.router = guests.NewRouter(guests.Config{
		Self: a.config.Name, Local: h.guests(), Offerer: h.judge, HostOf: h.hostOf,
		Dial: func(ctx context.Context, name string) (net.Conn, error) {
			address, err := a.resolve(ctx, name)
			if err != nil {
				return nil, err
			}
			return a.port.DialHost(ctx, port.ProtoRPC, name, address)
		},
	})
	a.onStop(func(context.Context) { h.router.Close() })
	if err := h.showGuests(); err != nil {
		return err
	}
	return h.addControllers()
}

// showGuests makes this host's guests part of its metrics.
func (h *host) showGuests() error {
	cfg := metrics.DefaultConfig()
	cfg.Host, cfg.Hypervisor, cfg.Instances = h.config.Name, h.hypervisor, h.instanceSet
	cfg.Logger = h.log.With("part", "metrics")
	collector, err := metrics.New(cfg)
	if err != nil {
		return err
	}
	return h.metrics.Register(collector)
}

// openObjects prepares the local view of what the mesh wants.
func (h *host) openObjects() (err error) {
	cfg := objects.DefaultCacheConfig()
	cfg.Store, cfg.Logger = h.store, h.log.With("part", "objects")
	if h.cache, err = objects.NewCache(cfg); err != nil {
		return err
	}
	h.claims = claims.NewCache(h.cache, h.log.With("part", "claims"))
	h.nodes = objects.For[*corev1.Node](h.cache)
	h.instanceSet = objects.For[*kubevirtv1.VirtualMachineInstance](h.cache)
	h.stewardship = stewards.NewStewardship(h.config.Name, liveMembers{h.gossip})
	recorder := objects.DefaultRecorderConfig()
	recorder.Store, recorder.Component, recorder.Host = h.store, "virtmesh", h.config.Name
	recorder.Logger = h.log.With("part", "events")
	h.recorder, err = objects.NewRecorder(recorder)
	return err
}

// openHypervisor finds out what this host can run, and how.
func (h *host) openHypervisor(ctx context.Context) (err error) {
	probe := kvmprobe.DefaultConfig()
	probe.Mode, probe.User = kvmprobe.Mode(h.config.Hypervisor.Acceleration), h.config.Hypervisor.User
	if h.kvm, err = kvmprobe.Probe(ctx, probe); err != nil {
		return err
	}
	cfg := libvirt.DefaultConfig()
	cfg.URI, cfg.Emulated = h.config.Hypervisor.URI, !h.kvm.Usable
	cfg.Logger = h.log.With("part", "libvirt")
	driver, err := libvirt.New(ctx, cfg)
	if err != nil {
		return err
	}
	h.hypervisor = driver
	h.capabilities, err = driver.Capabilities(ctx)
	if err != nil {
		return fmt.Errorf("libvirt at %s: %w; is libvirtd installed and running?", cfg.URI, err)
	}
	h.log.Info("hypervisor found", "kvm", h.kvm.Usable, "reason", h.kvm.Reason, "took", h.kvm.Took.Round(time.Millisecond))
	disk, err := offer.FileSystemBytes(h.config.StateDir)
	if err != nil {
		return err
	}
	h.allocatable = offer.Allocatable(h.config.Capacity.ReservedMemoryBytes, disk, h.capabilities)
	h.judge = &offer.Judge{
		Host: h.config.Name, Allocatable: h.allocatable, CPUModels: h.capabilities.CPUModels, OnHost: h.claims.OnHost,
		Emulator: h.machine().Emulates(),
	}
	return nil
}

// machine describes this host to the conversion of instances to domains.
func (h *host) machine() domain.HostInfo {
	canonical := map[string]string{}
	for _, m := range h.capabilities.Machines {
		canonical[m.Name] = m.Canonical
	}
	return domain.HostInfo{
		Canonical: canonical,
		KVM:       h.kvm.Usable, Arch: h.capabilities.Arch, Emulator: h.capabilities.Emulator,
		MachineTypes: h.capabilities.MachineTypes(), MaxCPUs: h.capabilities.MaxVCPUs,
		EFI: h.capabilities.EFI, SecureBoot: h.capabilities.SecureBoot, TPM: h.capabilities.TPM,
	}
}

func (h *host) openStorage(a *Agent) error {
	owner, group, err := qemuUser(h.config.Hypervisor.User)
	if err != nil {
		return err
	}
	cfg := containerdisk.DefaultConfig(filepath.Join(h.config.StateDir, "images"))
	cfg.MaxBytes, cfg.InsecureRegistries = h.config.Images.MaxBytes, h.config.Images.InsecureRegistries
	cfg.GID, cfg.Log, cfg.Registerer = group, h.log.With("part", "images"), h.metrics
	images, err := containerdisk.New(cfg)
	if err != nil {
		return fmt.Errorf("open the image cache: %w", err)
	}
	a.onStop(func(context.Context) { images.Close() })
	log := h.log.With("part", "volumes")
	pools, unusable, err := h.openPools(a, owner, group, log)
	if err != nil {
		return err
	}
	h.provisioner = volumes.NewProvisioner(volumes.ProvisionerConfig{
		Host: h.config.Name, Store: h.store, Cache: h.cache, Pools: pools, Unusable: unusable, Images: images,
		Removed: h.removed, Mine: func(key objects.Key) bool { return h.stewardship.Mine("claims", key) },
		Events: h.recorder, Logger: log,
	})
	scratch := ephemeral.DefaultConfig(filepath.Join(h.config.StateDir, "instances"))
	scratch.UID, scratch.GID, scratch.Log = owner, group, log
	disks, err := ephemeral.New(scratch)
	if err != nil {
		return fmt.Errorf("open the disks of instances: %w", err)
	}
	h.volumes = volumes.New(volumes.Config{Store: h.store, Images: images, Disks: disks, Claims: h.provisioner, Events: h.recorder})
	return nil
}

// qemuUser looks up the unprivileged user that libvirt runs QEMU as.
func qemuUser(name string) (uid, gid int, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, 0, fmt.Errorf("hypervisor.user: %w; libvirt's package makes it", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, fmt.Errorf("hypervisor.user: %w", err)
	}
	if gid, err = strconv.Atoi(u.Gid); err != nil {
		return 0, 0, fmt.Errorf("hypervisor.user: %w", err)
	}
	return uid, gid, nil
}

// emulatorLogDir is where libvirt's system daemon keeps a log for each domain.
const emulatorLogDir = "/var/log/libvirt/qemu"

func (h *host) openExecutor() (err error) {
	h.executor, err = executor.New(executor.Config{
		Host: h.config.Name, Store: h.store, Instances: h.instanceSet, Hypervisor: h.hypervisor,
		Volumes: h.volumes, Network: h.network, Events: h.recorder,
		Machine: h.machine(), LogDir: filepath.Join(h.config.StateDir, "consoles"), EmulatorLogDir: emulatorLogDir,
		Logger: h.log.With("part", "executor"),
	})
	return err
}

// guests reaches the guests of this host.
func (h *host) guests() guests.Instances { return h.executor.Guests() }

// hostOf tells which host runs an instance.
func (h *host) hostOf(_ context.Context, namespace, name string) (string, error) {
	vmi, ok := h.instanceSet.Get(objects.Key{Namespace: namespace, Name: name})
	if !ok {
		return "", fmt.Errorf("%w: %s/%s", guests.ErrNotFound, namespace, name)
	}
	if vmi.Status.NodeName == "" {
		return "", fmt.Errorf("%w: %s/%s has not been placed yet", guests.ErrNotRunning, namespace, name)
	}
	return vmi.Status.NodeName, nil
}

// run runs every loop until ctx ends or one fails.
func (h *host) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, l := range h.loops {
		group.Go(func() error {
			if err := l.run(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("%s: %w", l.name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// retire takes this host's offer to run instances back, and then what else it
// has published. It is refused while instances are claimed for the host: what
// it offers is withdrawn before they are counted, so none can come in between.
func (h *host) retire(ctx context.Context) error {
	if err := h.publisher.Pause(ctx); err != nil {
		return err
	}
	err := h.retirePaused(ctx)
	if err != nil {
		h.publisher.Resume()
	}
	return err
}

func (h *host) retirePaused(ctx context.Context) error {
	self := h.removal(h.config.Name)
	if err := self.withdrawCapacity(ctx); err != nil {
		return err
	}
	held, err := claims.OnHost(ctx, h.store, h.config.Name, raftstore.ReadOptions{})
	if err != nil {
		return fmt.Errorf("count the instances on %s: %w", h.config.Name, err)
	}
	if n := len(held); n > 0 {
		return fmt.Errorf("%w: %d instances run on %s; stop them first", admin.ErrInvalid, n, h.config.Name)
	}
	return self.forget(ctx)
}

// removal prepares taking a host out of the mesh.
func (h *host) removal(name string) removal {
	return removal{
		host: name, store: h.store, hosts: identity.NewHosts(h.raft), replicas: h.raft,
		letGo: h.provisioner.Bury,
		tell: func(vmi *kubevirtv1.VirtualMachineInstance, reason, message string) {
			h.recorder.Event(vmi, corev1.EventTypeWarning, reason, message)
		},
	}
}

// describe is what this host says of itself in its Node object.
func (h *host) describe() publish.Description {
	capacity := vmi.Resources{CPUMilli: int64(h.capabilities.CPUs) * 1000, MemoryBytes: h.capabilities.MemoryBytes}
	return publish.Description{
		Capacity: capacity, Allocatable: h.allocatable,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: h.config.Advertise}, {Type: corev1.NodeHostName, Address: h.config.Name},
		},
		Info: publish.SystemInfo("/", h.version), PodCIDR: h.network.Subnet.String(), Zone: h.config.Zone, Labels: h.config.Labels,
		KVM: h.kvm.Usable, KVMReason: h.kvm.Reason,
		CPUVendor: h.capabilities.HostVendor, HostModel: h.capabilities.HostModel,
		CPUModels: h.capabilities.CPUModels, CPUFeatures: h.capabilities.HostFeatures,
		Emulator: h.machine().Emulates(),
	}
}
