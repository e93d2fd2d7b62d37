package libvirt

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// guestMachine is the machine type of guests.
const guestMachine = "q35"

// capabilitiesAge is how long the capabilities that were read stay valid. Somebody may
// change the number of huge pages while the host runs.
const capabilitiesAge = time.Minute

// capabilityCache keeps the capabilities of the host that were read last.
type capabilityCache struct {
	mu    sync.Mutex
	value hypervisor.Capabilities
	// read is when the capabilities were read, connects counts the connections until
	// then, emulator is the emulator's file at that time, and emulated whether they are
	// those of guests without KVM.
	read     time.Time
	connects uint64
	emulator os.FileInfo
	emulated bool
}

// lookUp returns the capabilities that were read last. ok is false when they are too
// old or of other guests, or when the daemon was restarted or the emulator's file replaced
// since.
func (c *capabilityCache) lookUp(connects uint64, emulated bool, now time.Time) (hypervisor.Capabilities, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.read.IsZero() || c.connects != connects || c.emulated != emulated || now.Sub(c.read) >= capabilitiesAge {
		return hypervisor.Capabilities{}, false
	}
	return c.value, sameFile(c.emulator, fileInfo(c.value.Emulator))
}

func (c *capabilityCache) store(value hypervisor.Capabilities, connects uint64, emulated bool, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.value, c.read, c.connects, c.emulated, c.emulator = value, now, connects, emulated, fileInfo(value.Emulator)
}

// fileInfo returns nil for a file that does not exist.
func fileInfo(path string) os.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

func sameFile(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// Capabilities implements hypervisor.Inventory.
func (d *Driver) Capabilities(ctx context.Context) (hypervisor.Capabilities, error) {
	d.mu.Lock()
	connects, connected := d.connects, d.conn != nil && !d.closed
	d.mu.Unlock()
	emulated := d.cfg.Emulated != nil && d.cfg.Emulated()
	if known, ok := d.caps.lookUp(connects, emulated, time.Now()); ok && connected && ctx.Err() == nil {
		return known, nil
	}
	out, err := call(ctx, d, d.queries, "read capabilities", nil, func(conn *libvirt.Connect) (hypervisor.Capabilities, error) {
		return d.readCapabilities(conn, emulated)
	})
	if err == nil {
		d.caps.store(out, connects, emulated, time.Now())
	}
	return out, err
}

func (d *Driver) readCapabilities(conn *libvirt.Connect, emulated bool) (hypervisor.Capabilities, error) {
	var out hypervisor.Capabilities
	if err := versions(conn, &out); err != nil {
		return out, err
	}
	text, err := conn.GetCapabilities()
	if err != nil {
		return out, err
	}
	host := &libvirtxml.Caps{}
	if err := host.Unmarshal(text); err != nil {
		return out, fmt.Errorf("parse capabilities: %w", err)
	}
	hostCapabilities(host, &out)
	virtType := "qemu"
	if out.KVM && !emulated {
		virtType = "kvm"
	}
	text, err = conn.GetDomainCapabilities(out.Emulator, out.Arch, guestMachine, virtType, 0)
	if err != nil {
		return out, err
	}
	guest := &libvirtxml.DomainCaps{}
	if err := guest.Unmarshal(text); err != nil {
		return out, fmt.Errorf("parse domain capabilities: %w", err)
	}
	guestCapabilities(guest, &out)
	return out, nil
}

func versions(conn *libvirt.Connect, out *hypervisor.Capabilities) error {
	hv, err := conn.GetVersion()
	if err != nil {
		return err
	}
	lib, err := conn.GetLibVersion()
	if err != nil {
		return err
	}
	out.HypervisorVersion, out.LibraryVersion = dotted(hv), dotted(lib)
	return nil
}

// dotted formats a version of libvirt, such as 9000002, as 9.0.2.
func dotted(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1_000%1_000, v%1_000)
}

// hostCapabilities fills in what the host has, whatever its guests are given.
func hostCapabilities(caps *libvirtxml.Caps, out *hypervisor.Capabilities) {
	out.HostUUID = caps.Host.UUID
	if cpu := caps.Host.CPU; cpu != nil {
		out.Arch = cpu.Arch
		for _, p := range cpu.PageSizes {
			const smallKiB = 4
			if p.Unit == "KiB" && p.Size > smallKiB {
				out.HugepageSizes = append(out.HugepageSizes, uint64(p.Size))
			}
		}
	}
	for _, model := range caps.Host.SecModel {
		if model.Name != "none" {
			out.SecurityModels = append(out.SecurityModels, model.Name)
		}
	}
	if numa := caps.Host.NUMA; numa != nil && numa.Cells != nil {
		for _, cell := range numa.Cells.Cells {
			node := numaNode(cell)
			out.NUMANodes = append(out.NUMANodes, node)
			out.CPUs += len(node.CPUs)
			out.MemoryBytes += node.MemoryBytes
		}
	}
	for _, guest := range caps.Guests {
		if guest.OSType != "hvm" || guest.Arch.Name != out.Arch {
			continue
		}
		out.Emulator = guest.Arch.Emulator
		for _, m := range guest.Arch.Machines {
			out.Machines = append(out.Machines, machineType(m))
		}
		for _, domain := range guest.Arch.Domains {
			out.KVM = out.KVM || domain.Type == "kvm"
		}
	}
}

func machineType(m libvirtxml.CapsGuestMachine) hypervisor.MachineType {
	canonical := m.Canonical
	if canonical == "" {
		canonical = m.Name
	}
	return hypervisor.MachineType{Name: m.Name, Canonical: canonical, MaxVCPUs: m.MaxCPUs, Deprecated: m.Deprecated == "yes"}
}

func numaNode(cell libvirtxml.CapsHostNUMACell) hypervisor.NUMANode {
	node := hypervisor.NUMANode{ID: cell.ID}
	if cell.Memory != nil {
		node.MemoryBytes = int64(cell.Memory.Size) * kib
	}
	for _, p := range cell.PageInfo {
		if p.Unit == "KiB" && p.Size > 4 {
			if node.Hugepages == nil {
				node.Hugepages = map[uint64]int64{}
			}
			node.Hugepages[uint64(p.Size)] = int64(p.Count)
		}
	}
	if cell.CPUS != nil {
		for _, cpu := range cell.CPUS.CPUs {
			node.CPUs = append(node.CPUs, cpu.ID)
		}
	}
	return node
}

// guestCapabilities fills in what guests on the host can be given.
func guestCapabilities(caps *libvirtxml.DomainCaps, out *hypervisor.Capabilities) {
	if caps.VCPU != nil {
		out.MaxVCPUs = int(caps.VCPU.Max)
	}
	if caps.CPU != nil {
		for _, mode := range caps.CPU.Modes {
			if mode.Supported == "yes" {
				cpuMode(mode, out)
			}
		}
	}
	if caps.OS != nil {
		for _, e := range caps.OS.Enums {
			out.EFI = out.EFI || e.Name == "firmware" && slices.Contains(e.Values, "efi")
		}
		if loader := caps.OS.Loader; loader != nil {
			for _, e := range loader.Enums {
				out.SecureBoot = out.SecureBoot || out.EFI && e.Name == "secure" && slices.Contains(e.Values, "yes")
			}
		}
	}
	if devices := caps.Devices; devices != nil && devices.TPM != nil && devices.TPM.Supported == "yes" {
		for _, e := range devices.TPM.Enums {
			out.TPM = out.TPM || e.Name == "backendModel" && slices.Contains(e.Values, "emulator")
		}
	}
	if f := caps.Features; f != nil && f.SEV != nil && f.SEV.Supported == "yes" {
		out.MemoryEncryption = append(out.MemoryEncryption, "sev")
	}
}

func cpuMode(mode libvirtxml.DomainCapsCPUMode, out *hypervisor.Capabilities) {
	switch mode.Name {
	case "host-model":
		out.HostVendor = mode.Vendor
		for _, m := range mode.Models {
			out.HostModel = m.Name
		}
		for _, f := range mode.Features {
			if f.Policy == "require" {
				out.HostFeatures = append(out.HostFeatures, f.Name)
			}
		}
	case "custom":
		for _, m := range mode.Models {
			if m.Usable == "yes" {
				out.CPUModels = append(out.CPUModels, m.Name)
			}
		}
	}
}
