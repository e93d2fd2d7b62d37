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
	"virtmesh/agent/vmi"
)

// machine is what this host can run, and how.
type machine struct {
	hypervisor   hypervisor.Hypervisor
	capabilities hypervisor.Capabilities
	kvm          kvmprobe.Result
	// allocatable is what guests may use of it.
	allocatable vmi.Resources
}

// openMachine finds out what this host can run. stateDir is where the disks of
// instances will be. The caller closes the machine's hypervisor.
func openMachine(ctx context.Context, config Config, stateDir string, log *slog.Logger) (m machine, err error) {
	probe := kvmprobe.DefaultConfig()
	probe.Mode, probe.User = kvmprobe.Mode(config.Hypervisor.Acceleration), config.Hypervisor.User
	if m.kvm, err = kvmprobe.Probe(ctx, probe); err != nil {
		return m, err
	}
	cfg := libvirt.DefaultConfig()
	cfg.URI, cfg.Emulated = config.Hypervisor.URI, !m.kvm.Usable
	cfg.Logger = log.With("part", "libvirt")
	driver, err := libvirt.New(ctx, cfg)
	if err != nil {
		return m, err
	}
	m.hypervisor = driver
	if m.capabilities, err = driver.Capabilities(ctx); err != nil {
		driver.Close()
		return m, fmt.Errorf("libvirt at %s: %w; is libvirtd installed and running?", cfg.URI, err)
	}
	log.Info("hypervisor found", "kvm", m.kvm.Usable, "reason", m.kvm.Reason, "took", m.kvm.Took.Round(time.Millisecond))
	disk, err := offer.FileSystemBytes(stateDir)
	if err != nil {
		driver.Close()
		return m, err
	}
	m.allocatable = offer.Allocatable(config.Capacity.ReservedMemoryBytes, disk, m.capabilities)
	return m, nil
}

// info describes the machine to the conversion of instances to domains.
func (m machine) info() domain.HostInfo {
	canonical := map[string]string{}
	for _, m := range m.capabilities.Machines {
		canonical[m.Name] = m.Canonical
	}
	return domain.HostInfo{
		Canonical: canonical,
		KVM:       m.kvm.Usable, Arch: m.capabilities.Arch, Emulator: m.capabilities.Emulator,
		MachineTypes: m.capabilities.MachineTypes(), MaxCPUs: m.capabilities.MaxVCPUs,
		EFI: m.capabilities.EFI, SecureBoot: m.capabilities.SecureBoot, TPM: m.capabilities.TPM,
	}
}

// describe returns the description of the host for its Node object.
func (m machine) describe(self Self, podCIDR string) publish.Description {
	capacity := vmi.Resources{CPUMilli: int64(m.capabilities.CPUs) * 1000, MemoryBytes: m.capabilities.MemoryBytes}
	return publish.Description{
		Capacity: capacity, Allocatable: m.allocatable,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: self.Advertise}, {Type: corev1.NodeHostName, Address: self.Name},
		},
		Info: publish.SystemInfo("/", self.Facts.Version), PodCIDR: podCIDR, Zone: self.Facts.Zone, Labels: self.Facts.Labels,
		KVM: m.kvm.Usable, KVMReason: m.kvm.Reason,
		CPUVendor: m.capabilities.HostVendor, HostModel: m.capabilities.HostModel,
		CPUModels: m.capabilities.CPUModels, CPUFeatures: m.capabilities.HostFeatures,
		Emulator: m.info().Emulates(),
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
