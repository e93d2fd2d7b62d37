package host

import (
	"context"
	"fmt"
	"log/slog"
	"os/user"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/confinement"
	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/objects"
	machine "virtmesh/agent/vmi"
	"virtmesh/storage/program"
)

const (
	// firstLook bounds how long the start of an agent waits for the hypervisor to say what
	// it can run, and lookTimeout one look later: under load, libvirt takes long to try its
	// emulator.
	firstLook   = 20 * time.Second
	lookTimeout = time.Minute
	// lookEvery is how often the host looks again. Mostly the answer comes from memory.
	lookEvery = 15 * time.Second
	// lossPatience is how long the hypervisor may be away before the Node says so: the
	// upgrade of a package restarts it.
	lossPatience = 30 * time.Second
)

// platform is what this host can run, and how. The hypervisor may be missing or hang when
// the agent starts, and may be replaced while it runs: the agent is a part of the mesh all
// the same, and finds out when there is something new. The methods may be called at once.
type platform struct {
	hypervisor hypervisor.Hypervisor
	kvm        *kvmprobe.Prober
	confined   *confinement.Finder
	// reserved is the memory that is kept from guests, stateDir where their disks will be.
	reserved int64
	stateDir string
	log      *slog.Logger

	mu sync.Mutex
	// found is what the last look found; known is false until one has found anything.
	found finding
	known bool
	// failure says why the last look found nothing, since is when looks began to fail.
	failure error
	since   time.Time
}

// finding is what one look at the platform found.
type finding struct {
	capabilities hypervisor.Capabilities
	kvm          kvmprobe.Result
	confined     confinement.Host
	// allocatable is what guests may use of the host.
	allocatable machine.Resources
}

// openPlatform prepares the hypervisor, and waits a while for what it can run. It is no
// error if it does not answer. The caller closes the platform's hypervisor.
func openPlatform(ctx context.Context, config Config, stateDir string, log *slog.Logger) (*platform, error) {
	probe := kvmprobe.DefaultConfig()
	probe.Mode, probe.User = kvmprobe.Mode(config.Hypervisor.Acceleration), config.Hypervisor.User
	prober, err := kvmprobe.NewProber(probe)
	if err != nil {
		return nil, err
	}
	driver, err := openDriver(ctx, config.Hypervisor, func() bool { return !prober.Usable() }, log)
	if err != nil {
		return nil, err
	}
	p := &platform{hypervisor: driver, kvm: prober, confined: confinementFinder(config.Hypervisor), reserved: config.Capacity.ReservedMemoryBytes, stateDir: stateDir, log: log}
	first, cancel := context.WithTimeout(ctx, firstLook)
	defer cancel()
	p.look(first)
	if ctx.Err() != nil {
		driver.Close()
		return nil, ctx.Err()
	}
	return p, nil
}

// confinementFinder finds out what keeps guests apart on this machine.
func confinementFinder(config HypervisorConfig) *confinement.Finder {
	return &confinement.Finder{Root: "/", AppArmorOptional: config.WithoutAppArmor, Landlock: program.LandlockVersion() > 0, TrySandbox: func(ctx context.Context) error {
		_, group, err := qemuUser(config.User)
		if err != nil {
			return err
		}
		return program.Sandbox{User: config.converters(uint32(group)).Next()}.Check(ctx)
	}}
}

// Run looks again when the hypervisor has come back, and from time to time, until ctx ends.
func (p *platform) Run(ctx context.Context) error {
	events := p.hypervisor.Subscribe(ctx)
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case event, open := <-events:
			if !open {
				events = nil
			}
			if event.Kind != hypervisor.EventResync {
				continue
			}
			p.confined.Forget()
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		bounded, cancel := context.WithTimeout(ctx, lookTimeout)
		p.look(bounded)
		cancel()
	}
}

// look finds out what the host can run, and keeps it or why it cannot be found out.
func (p *platform) look(ctx context.Context) {
	found, err := p.find(ctx)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.confined.Forget()
		if p.failure == nil {
			p.since = time.Now()
			p.log.Warn("the hypervisor does not say what it can run; guests that run go on, and others wait", "err", err)
		}
		p.failure = err
		return
	}
	caps := found.capabilities
	if p.found.isNews(found) || p.failure != nil {
		p.log.Info("hypervisor found", "libvirt", caps.LibraryVersion, "qemu", caps.HypervisorVersion,
			"kvm", found.kvm.Usable, "reason", found.kvm.Reason, "took", found.kvm.Took.Round(time.Millisecond))
	}
	if faults := found.confined.Faults(); !p.known || !slices.Equal(faults, p.found.confined.Faults()) {
		for _, fault := range faults {
			p.log.Warn("guests of this host are less apart than they could be", "because", fault)
		}
	}
	p.found, p.known, p.failure = found, true, nil
}

// isNews reports whether a later finding differs from f. How long the probe of KVM took is no
// news.
func (f finding) isNews(later finding) bool {
	return !reflect.DeepEqual(f.capabilities, later.capabilities) || f.kvm.Usable != later.kvm.Usable || f.kvm.Reason != later.kvm.Reason
}

func (p *platform) find(ctx context.Context) (found finding, err error) {
	// First, because what a guest can be given depends on it.
	if found.kvm, err = p.kvm.Result(ctx); err != nil {
		return found, err
	}
	if found.capabilities, err = p.hypervisor.Capabilities(ctx); err != nil {
		return found, fmt.Errorf("libvirt: %w; is libvirtd installed and running?", err)
	}
	found.confined = p.confined.Find(ctx, found.capabilities.SecurityModels)
	disk, err := offer.FileSystemBytes(p.stateDir)
	if err != nil {
		return found, err
	}
	found.allocatable = offer.Allocatable(p.reserved, disk, found.capabilities)
	return found, nil
}

// absence says why the hypervisor does not say what it can run, and for how long that has
// been so; why is nil while it does.
type absence struct {
	why    error
	lasted time.Duration
}

// last returns what was found last, and whether there is something newer to be had; known is
// false if nothing was ever found.
func (p *platform) last() (found finding, known bool, away absence) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.found, p.known, absence{p.failure, time.Since(p.since)}
}

// Ability returns what the host can give guests now, or why it can give them nothing.
func (p *platform) Ability() (offer.Ability, error) {
	found, _, away := p.last()
	if away.why != nil {
		return offer.Ability{}, fmt.Errorf("%w: %w", hypervisor.ErrUnavailable, away.why)
	}
	return offer.Ability{Allocatable: found.allocatable, CPUModels: found.capabilities.CPUModels, Emulator: found.info().Emulates()}, nil
}

// MayStart returns why no guest may start on the host as it was found; nil if guests may.
func (p *platform) MayStart() error {
	found, _, _ := p.last()
	return found.confined.Refusal()
}

// Info describes the platform to the conversion of instances to domains.
func (p *platform) Info() (domain.HostInfo, error) {
	found, known, away := p.last()
	if !known {
		return domain.HostInfo{}, fmt.Errorf("%w: %w", hypervisor.ErrUnavailable, away.why)
	}
	return found.info(), nil
}

func (f finding) info() domain.HostInfo {
	canonical := map[string]string{}
	for _, m := range f.capabilities.Machines {
		canonical[m.Name] = m.Canonical
	}
	return domain.HostInfo{
		Canonical: canonical,
		KVM:       f.kvm.Usable, Arch: f.capabilities.Arch, Emulator: f.capabilities.Emulator,
		MachineTypes: f.capabilities.MachineTypes(), MaxCPUs: f.capabilities.MaxVCPUs,
		EFI: f.capabilities.EFI, SecureBoot: f.capabilities.SecureBoot, TPM: f.capabilities.TPM,
	}
}

// describe returns the description of the host for its Node object. What was found before
// the hypervisor went away stays true of the host.
func (p *platform) describe(self Self, podCIDR string) publish.Description {
	found, known, away := p.last()
	caps := found.capabilities
	system := publish.SystemInfo("/", self.Facts.Version)
	system.ContainerRuntimeVersion = "libvirt://" + caps.LibraryVersion
	d := publish.Description{
		Addresses: self.addresses(), Info: system, PodCIDR: podCIDR, Zone: self.Facts.Zone, Labels: self.Facts.Labels,
		Unknown:  !known,
		Capacity: machine.Resources{CPUMilli: int64(caps.CPUs) * 1000, MemoryBytes: caps.MemoryBytes}, Allocatable: found.allocatable,
		KVM: found.kvm.Usable, KVMReason: found.kvm.Reason,
		CPUVendor: caps.HostVendor, HostModel: caps.HostModel, CPUModels: caps.CPUModels, CPUFeatures: caps.HostFeatures,
		Emulator: found.info().Emulates(),
	}
	condition := corev1.NodeCondition{
		Type: objects.NodeHypervisorReady, Status: corev1.ConditionTrue, Reason: "HypervisorAnswers",
		Message: fmt.Sprintf("libvirt %s and QEMU %s", caps.LibraryVersion, caps.HypervisorVersion),
	}
	if !known || away.why != nil && away.lasted >= lossPatience {
		d.NotReady = "The hypervisor does not answer: new guests do not start here, and those that run go on. Is libvirtd installed and running?"
		condition.Status, condition.Reason, condition.Message = corev1.ConditionFalse, "HypervisorAway", d.NotReady
	}
	d.Conditions = append(d.Conditions, condition)
	return d
}

// addresses returns the host's addresses for its Node.
func (s Self) addresses() []corev1.NodeAddress {
	return []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: s.Advertise}, {Type: corev1.NodeHostName, Address: s.Name}}
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
