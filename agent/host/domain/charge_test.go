package domain

import (
	"strconv"
	"testing"
	"time"

	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
	"pgregory.net/rapid"

	machine "virtmesh/agent/vmi"
	"virtmesh/agent/vmi/vmitest"
	"virtmesh/storage"
)

// accepted draws an instance that the API would store, as it would store it.
func accepted(t *rapid.T) *v1.VirtualMachineInstance {
	d := machine.DefaultDefaults()
	d.Architecture = "amd64"
	vmi := vmitest.Instance(t)
	machine.SetNewInstance(d, vmi, time.Unix(0, 0))
	if errs := machine.ValidateInstance(d, vmi); len(errs) > 0 {
		t.Skip("refused")
	}
	return vmi
}

// everything is the input of a host that has all that vmi asks for.
func everything(vmi *v1.VirtualMachineInstance, host HostInfo) Input {
	in := Input{VMI: vmi, Host: "host1", Machine: host, VSOCKCID: 3, Paths: Paths{Variables: "/kept/variables.fd"},
		Disks: map[string]Disk{}, NICs: map[string]NIC{}, HostDevices: map[string]HostDevice{}, Filesystems: map[string]string{}}
	for _, d := range vmi.Spec.Domain.Devices.Disks {
		in.Disks[d.Name] = Disk{Type: DiskFile, Path: "/disks/" + d.Name, Format: "raw", DirectIO: true, LogicalBlockSize: 512}
	}
	for i, n := range vmi.Spec.Domain.Devices.Interfaces {
		in.NICs[n.Name] = NIC{TapDevice: "tap" + strconv.Itoa(i)}
	}
	for i, h := range vmi.Spec.Domain.Devices.HostDevices {
		in.HostDevices[h.Name] = HostDevice{PCI: "0000:65:00." + strconv.Itoa(i)}
	}
	for i, g := range vmi.Spec.Domain.Devices.GPUs {
		in.HostDevices[g.Name] = HostDevice{PCI: "0000:66:00." + strconv.Itoa(i)}
	}
	return in
}

var ampleHosts = map[string]HostInfo{
	"kvm": {KVM: true, Arch: "x86_64", EFI: true, SecureBoot: true, TPM: true},
	"tcg": {Arch: "x86_64", EFI: true, SecureBoot: true, TPM: true},
}

// What a claim is charged is at least what the domain gets.
func TestChargedIsAtLeastStarted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		vmi := accepted(t)
		policy := machine.Policy{
			CPUAllocationRatio:      rapid.Int64Range(1, 100).Draw(t, "ratio"),
			MemoryOvercommitPercent: rapid.Int64Range(10, 1000).Draw(t, "percent"),
		}
		charged := policy.Resources(&vmi.Spec)
		in := everything(vmi, ampleHosts["kvm"])
		if vmi.Spec.Domain.CPU.DedicatedCPUPlacement {
			in.Pinning = &Pinning{VCPUs: make([]int, machine.TopologyOf(&vmi.Spec).VCPUs())}
		}
		converted, _, err := Convert(in)
		if err != nil {
			t.Skip(err)
		}
		text, err := converted.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var started libvirtxml.Domain
		if err := started.Unmarshal(text); err != nil {
			t.Fatal(err)
		}
		compareCharge(t, policy, charged, &started, vmi)
	})
}

func compareCharge(t *rapid.T, policy machine.Policy, charged machine.Resources, started *libvirtxml.Domain, vmi *v1.VirtualMachineInstance) {
	vcpus := int64(started.VCPU.Value)
	if started.VCPU.Current > 0 {
		vcpus = int64(started.VCPU.Current)
	}
	if charged.CPUMilli*policy.CPUAllocationRatio < vcpus*1000 {
		t.Errorf("charged %d mCPU for %d CPUs at a ratio of %d", charged.CPUMilli, vcpus, policy.CPUAllocationRatio)
	}
	memory := int64(started.Memory.Value)
	if started.Memory.Unit != "b" {
		t.Fatalf("memory in %q", started.Memory.Unit)
	}
	if b := started.MemoryBacking; b != nil && b.MemoryHugePages != nil {
		page := b.MemoryHugePages.Hugepages[0]
		huge := charged.Hugepages[machine.PageName(int64(page.Size))]
		if huge < memory {
			t.Errorf("charged %v of huge pages for %d bytes in pages of %d", charged.Hugepages, memory, page.Size)
		}
		memory = 0
	} else if len(charged.Hugepages) > 0 {
		t.Errorf("charged %v, started without huge pages", charged.Hugepages)
	}
	if percent := policy.MemoryOvercommitPercent; float64(charged.MemoryBytes)*float64(percent)/100 < float64(memory) {
		t.Errorf("charged %d bytes for %d at %d%%", charged.MemoryBytes, memory, percent)
	}
	if !vmi.Spec.Domain.Resources.OvercommitGuestOverhead && charged.MemoryBytes < memory*100/policy.MemoryOvercommitPercent+machine.Overhead(&vmi.Spec) {
		t.Errorf("charged %d bytes for %d and QEMU itself", charged.MemoryBytes, memory)
	}
	devices := int64(0)
	for _, n := range charged.Devices {
		devices += n
	}
	if devices < int64(len(started.Devices.Hostdevs)) {
		t.Errorf("charged %v for %d devices", charged.Devices, len(started.Devices.Hostdevs))
	}
	ephemeral := int64(0)
	for _, v := range vmi.Spec.Volumes {
		if v.EmptyDisk != nil {
			ephemeral += storage.AlignSize(v.EmptyDisk.Capacity.Value())
		}
	}
	if charged.EphemeralBytes < ephemeral {
		t.Errorf("charged %d bytes for empty disks of %d", charged.EphemeralBytes, ephemeral)
	}
}

// Room for further CPUs ends where the emulator does, and CPUs to start with do not.
func TestRoomForCPUs(t *testing.T) {
	for _, tc := range []struct {
		limit, sockets, most int
		want                 uint
		refused              bool
	}{
		{0, 1, 4, 4, false},
		{0, 100, 400, 255, false},
		{0, 255, 255, 255, false},
		{0, 256, 256, 0, true},
		{64, 64, 256, 64, false},
		{64, 65, 65, 0, true},
		{288, 200, 300, 255, false},
	} {
		in := prepared
		in.VMI, in.Machine = load(t, "minimal"), tcgHost
		in.Machine.MaxCPUs = tc.limit
		in.VMI.Spec.Domain.CPU = &v1.CPU{Sockets: uint32(tc.sockets), MaxSockets: uint32(tc.most)}
		out, _, err := Convert(in)
		if (err != nil) != tc.refused || err == nil && out.VCPU.Value != tc.want {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}
