package host

import (
	"context"
	"fmt"
	"log/slog"
	"os/user"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/kvmprobe"
	"virtmesh/agent/host/hypervisor/libvirt"
	"virtmesh/agent/host/offer"
	"virtmesh/agent/host/publish"
	machine "virtmesh/agent/vmi"
)

// platform is what this host can run, and how.
type platform struct {
	hypervisor   hypervisor.Hypervisor
	capabilities hypervisor.Capabilities
	kvm          kvmprobe.Result
	// allocatable is what guests may use of it.
	allocatable machine.Resources
}

// openPlatform finds out what this host can run. stateDir is where the disks of
// instances will be. The caller closes the platform's hypervisor.
func openPlatform(ctx context.Context, config Config, stateDir string, log *slog.Logger) (p platform, err error) {
	probe := kvmprobe.DefaultConfig()
	probe.Mode, probe.User = kvmprobe.Mode(config.Hypervisor.Acceleration), config.Hypervisor.User
	if p.kvm, err = kvmprobe.Probe(ctx, probe); err != nil {
		return p, err
	}
	cfg := libvirt.DefaultConfig()
	cfg.URI, cfg.Emulated = config.Hypervisor.URI, !p.kvm.Usable
	cfg.Logger = log.With("part", "libvirt")
	driver, err := libvirt.New(ctx, cfg)
	if err != nil {
		return p, err
	}
	p.hypervisor = driver
	if p.capabilities, err = driver.Capabilities(ctx); err != nil {
		driver.Close()
		return p, fmt.Errorf("libvirt at %s: %w; is libvirtd installed and running?", cfg.URI, err)
	}
	log.Info("hypervisor found", "kvm", p.kvm.Usable, "reason", p.kvm.Reason, "took", p.kvm.Took.Round(time.Millisecond))
	disk, err := offer.FileSystemBytes(stateDir)
	if err != nil {
		driver.Close()
		return p, err
	}
	p.allocatable = offer.Allocatable(config.Capacity.ReservedMemoryBytes, disk, p.capabilities)
	return p, nil
}

// info describes the platform to the conversion of instances to domains.
func (p platform) info() domain.HostInfo {
	canonical := map[string]string{}
	for _, m := range p.capabilities.Machines {
		canonical[m.Name] = m.Canonical
	}
	return domain.HostInfo{
		Canonical: canonical,
		KVM:       p.kvm.Usable, Arch: p.capabilities.Arch, Emulator: p.capabilities.Emulator,
		MachineTypes: p.capabilities.MachineTypes(), MaxCPUs: p.capabilities.MaxVCPUs,
		EFI: p.capabilities.EFI, SecureBoot: p.capabilities.SecureBoot, TPM: p.capabilities.TPM,
	}
}

// describe returns the description of the host for its Node object.
func (p platform) describe(self Self, podCIDR string) publish.Description {
	capacity := machine.Resources{CPUMilli: int64(p.capabilities.CPUs) * 1000, MemoryBytes: p.capabilities.MemoryBytes}
	return publish.Description{
		Capacity: capacity, Allocatable: p.allocatable,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: self.Advertise}, {Type: corev1.NodeHostName, Address: self.Name},
		},
		Info: publish.SystemInfo("/", self.Facts.Version), PodCIDR: podCIDR, Zone: self.Facts.Zone, Labels: self.Facts.Labels,
		KVM: p.kvm.Usable, KVMReason: p.kvm.Reason,
		CPUVendor: p.capabilities.HostVendor, HostModel: p.capabilities.HostModel,
		CPUModels: p.capabilities.CPUModels, CPUFeatures: p.capabilities.HostFeatures,
		Emulator: p.info().Emulates(),
	}
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
