package domain

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	v1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"virtmesh/agent/host/hypervisor"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// kvmHost and tcgHost are the hosts the golden files are made for.
var (
	kvmHost = HostInfo{KVM: true, Arch: "x86_64", Emulator: "/usr/bin/qemu-system-x86_64", EFI: true, SecureBoot: true, TPM: true, MaxCPUs: 64}
	tcgHost = HostInfo{Arch: "x86_64", Emulator: "/usr/bin/qemu-system-x86_64", EFI: true, SecureBoot: true, TPM: true, MaxCPUs: 64}
)

// prepared is what the host of the golden files has made ready, by name.
var prepared = Input{
	Host:  "host1",
	Epoch: 7,
	Disks: map[string]Disk{
		"root":      {Type: DiskFile, Path: "/disks/root.qcow2", Format: "qcow2", DirectIO: true, Backing: &Disk{Type: DiskFile, Path: "/images/base.raw", Format: "raw", DirectIO: true}},
		"cloudinit": {Type: DiskFile, Path: "/disks/cloudinit.iso", Format: "raw", ReadOnly: true},
		"system":    {Type: DiskFile, Path: "/disks/system.qcow2", Format: "qcow2"},
		"drivers":   {Type: DiskFile, Path: "/images/drivers.iso", Format: "raw", DirectIO: true},
		"empty":     {},
		"data":      {Type: DiskBlock, Path: "/dev/vg/data", Format: "raw", DirectIO: true},
		"log":       {Type: DiskFile, Path: "/disks/log.raw", Format: "raw", DirectIO: true, Preallocated: true, NoDiscard: true, LogicalBlockSize: 4096},
		"ceph": {Type: DiskNetwork, Format: "raw", Network: &NetworkDisk{
			Protocol: "rbd", Name: "pool/ceph", Hosts: []NetworkHost{{Name: "mon1", Port: "6789"}, {Name: "mon2", Port: "6789"}},
			User: "virtmesh", SecretUUID: "0f7d8a1e-0000-4000-8000-0000000000ff",
		}},
		"shared":  {Type: DiskFile, Path: "/nfs/shared.raw", Format: "raw", DirectIO: true},
		"raw":     {Type: DiskBlock, Path: "/dev/sdx", Format: "raw", DirectIO: true},
		"overlay": {Type: DiskFile, Path: "/disks/overlay.qcow2", Format: "qcow2"},
		"stick":   {Type: DiskFile, Path: "/disks/stick.raw", Format: "raw"},
	},
	NICs: map[string]NIC{
		"default": {TapDevice: "tap-web-0", MAC: "02:00:00:00:00:01", MTU: 1450},
		"lan":     {TapDevice: "tap-db-1", MAC: "02:00:00:00:00:02"},
		"vf":      {PCI: "0000:3b:02.1"},
	},
	HostDevices: map[string]HostDevice{
		"gpu1":   {PCI: "0000:65:00.0"},
		"vgpu1":  {MDev: "0f7d8a1e-0000-4000-8000-0000000000ee"},
		"dongle": {USB: &USBAddress{Bus: 1, Device: 4}},
	},
	Filesystems: map[string]string{"share": "/srv/share"},
	KernelBoot:  KernelFiles{Kernel: "/boot/vmlinuz", Initrd: "/boot/initrd"},
	User:        &User{UID: 1_900_000_123, GID: 109},
	Pinning:     &Pinning{VCPUs: []int{2, 3, 4, 5}, Emulator: []int{6}, NUMANodes: []int{0}},
	VSOCKCID:    17,
	CPUMilli:    250,
	Paths:       Paths{SerialLog: "/log/serial", AgentSocket: "/instances/web/sockets/agent"},
}

func load(t *testing.T, name string) *v1.VirtualMachineInstance {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	vmi := &v1.VirtualMachineInstance{}
	if err := yaml.UnmarshalStrict(text, vmi); err != nil {
		t.Fatal(err)
	}
	return vmi
}

func TestGolden(t *testing.T) {
	for _, name := range []string{"minimal", "typical", "windows", "performance", "kernelboot"} {
		for suffix, host := range map[string]HostInfo{"kvm": kvmHost, "tcg": tcgHost} {
			t.Run(name+"/"+suffix, func(t *testing.T) {
				in := prepared
				in.VMI, in.Machine = load(t, name), host
				before := in.VMI.DeepCopy()
				domain, warnings, err := Convert(in)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := asYAML(t, in.VMI), asYAML(t, before); got != want {
					t.Error("the VMI was changed")
				}
				text, err := domain.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				for _, w := range warnings {
					text += "\n<!-- " + w + " -->"
				}
				compare(t, filepath.Join("testdata", name+"."+suffix+".xml"), text+"\n")
			})
		}
	}
}

func asYAML(t *testing.T, v any) string {
	t.Helper()
	text, err := yaml.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func compare(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (rewrite with -update); got:\n%s", path, got)
	}
}

func TestMetadataNamesTheOwner(t *testing.T) {
	in := prepared
	in.VMI, in.Machine = load(t, "typical"), kvmHost
	domain, _, err := Convert(in)
	if err != nil {
		t.Fatal(err)
	}
	text, err := domain.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	owner, ok, err := hypervisor.OwnerOf(text)
	want := hypervisor.Owner{Ref: Ref(in.VMI), Host: "host1", Epoch: 7, GraceSeconds: 30}
	if err != nil || !ok || owner != want {
		t.Errorf("got owner %+v, %v, %v; want %+v", owner, ok, err, want)
	}
}

// fault spoils a good VMI in one place.
type fault struct {
	field       string
	unsupported bool
	spoil       func(*Input)
}

func TestFaultsNameTheField(t *testing.T) {
	for _, tc := range append(machineFaults(), deviceFaults()...) {
		t.Run(tc.field, func(t *testing.T) {
			in := prepared
			in.VMI, in.Machine = load(t, "typical"), kvmHost
			tc.spoil(&in)
			_, _, err := Convert(in)
			var got *FieldError
			if !errors.As(err, &got) {
				t.Fatalf("no FieldError: %v", err)
			}
			if got.Field != tc.field || got.Unsupported != tc.unsupported {
				t.Errorf("got %s (unsupported %v): %v", got.Field, got.Unsupported, err)
			}
		})
	}
}

func machineFaults() []fault {
	return []fault{
		{"spec.architecture", true, func(in *Input) { in.VMI.Spec.Architecture = "arm64" }},
		{"spec.domain.machine.type", true, func(in *Input) { in.Machine.MachineTypes = []string{"pc"} }},
		{"spec.domain.memory.guest", false, func(in *Input) { in.VMI.Spec.Domain.Memory = nil }},
		{"spec.domain.cpu", true, func(in *Input) { in.Machine.MaxCPUs = 1 }},
		{"spec.domain.cpu.dedicatedCpuPlacement", true, func(in *Input) {
			in.Pinning, in.VMI.Spec.Domain.CPU.DedicatedCPUPlacement = nil, true
		}},
		{"spec.domain.cpu.features[0].policy", false, func(in *Input) {
			in.VMI.Spec.Domain.CPU.Features = []v1.CPUFeature{{Name: "vmx", Policy: "maybe"}}
		}},
		{"spec.domain.memory.hugepages.pageSize", false, func(in *Input) {
			in.VMI.Spec.Domain.Memory.Hugepages = &v1.Hugepages{PageSize: "big"}
		}},
		{"spec.domain.launchSecurity.sev", true, func(in *Input) {
			in.VMI.Spec.Domain.LaunchSecurity = &v1.LaunchSecurity{SEV: &v1.SEV{}}
		}},
		{"spec.domain.firmware.bootloader.efi.secureBoot", true, func(in *Input) {
			in.Machine.SecureBoot = false
			in.VMI.Spec.Domain.Firmware.Bootloader = &v1.Bootloader{EFI: &v1.EFI{}}
		}},
		{"spec.domain.firmware.uuid", false, func(in *Input) {
			in.VMI.Spec.Domain.Firmware.UUID = "5d307ca9-b3ef-428c-8861-06e72d69f223,serial=x"
		}},
		{"spec.domain.firmware.bootloader.efi.persistent", true, func(in *Input) {
			in.VMI.Spec.Domain.Firmware.Bootloader = &v1.Bootloader{EFI: &v1.EFI{Persistent: ptr(true)}}
		}},
		{"spec.domain.ioThreads.supplementalPoolThreadCount", false, func(in *Input) {
			in.VMI.Spec.Domain.IOThreadsPolicy = ptr(v1.IOThreadsPolicySupplementalPool)
		}},
	}
}

func deviceFaults() []fault {
	return []fault{
		{"spec.domain.devices.disks[0].name", false, func(in *Input) { in.Disks = nil }},
		{"spec.domain.devices.disks[1].name", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Disks[1].Name = "root" }},
		{"spec.domain.devices.disks[0].disk.bus", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Disks[0].Disk.Bus = "ide" }},
		{"spec.domain.devices.disks[0].disk.readonly", true, func(in *Input) {
			in.VMI.Spec.Domain.Devices.Disks[0].Disk.Bus, in.VMI.Spec.Domain.Devices.Disks[0].Disk.ReadOnly = "sata", true
		}},
		{"spec.domain.devices.disks[0].io", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Disks[0].IO = "fast" }},
		{"spec.domain.devices.disks[0].cache", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Disks[0].Cache = "all" }},
		{"spec.domain.devices.disks[1].cache", true, func(in *Input) { in.VMI.Spec.Domain.Devices.Disks[1].Cache = "none" }},
		{"spec.domain.devices.interfaces[0].name", false, func(in *Input) { in.NICs = nil }},
		{"spec.domain.devices.interfaces[0].model", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Interfaces[0].Model = "ne3k" }},
		{"spec.domain.devices.interfaces[0].macAddress", false, func(in *Input) {
			in.NICs = map[string]NIC{"default": {TapDevice: "t", MAC: "01:00:00:00:00:00"}}
		}},
		{"spec.domain.devices.interfaces[0].pciAddress", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Interfaces[0].PciAddress = "5" }},
		{"spec.domain.devices.tpm", true, func(in *Input) {
			in.Machine.TPM, in.VMI.Spec.Domain.Devices.TPM = false, &v1.TPMDevice{}
		}},
		{"spec.domain.devices.gpus[0].deviceName", true, func(in *Input) { in.VMI.Spec.Domain.Devices.GPUs = []v1.GPU{{Name: "g"}} }},
		{"spec.domain.devices.watchdog", false, func(in *Input) { in.VMI.Spec.Domain.Devices.Watchdog = &v1.Watchdog{} }},
		{"spec.domain.devices.clientPassthrough", true, func(in *Input) {
			in.VMI.Spec.Domain.Devices.ClientPassthrough = &v1.ClientPassthroughDevices{}
		}},
	}
}

// Only the canonical form of a UUID reaches QEMU's command line.
func TestFirmwareUUIDInjectsNothing(t *testing.T) {
	for _, bad := range []types.UID{
		"5d307ca9-b3ef-428c-8861-06e72d69f22", "{5d307ca9-b3ef-428c-8861-06e72d69f223}",
		"urn:uuid:5d307ca9-b3ef-428c-8861-06e72d69f223", "5d307ca9-b3ef-428c-8861-06e72d69f22,", "x",
	} {
		in := prepared
		in.VMI, in.Machine = load(t, "typical"), kvmHost
		in.VMI.Spec.Domain.Firmware.UUID = bad
		if _, _, err := Convert(in); err == nil || !strings.Contains(err.Error(), "spec.domain.firmware.uuid") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// KubeVirt's default bus for a seed is SATA, on which libvirt refuses <readonly/>.
func TestSeedIsReadOnlyWhereItsBusCanBe(t *testing.T) {
	for bus, want := range map[v1.DiskBus]bool{"virtio": true, "scsi": true, "usb": true, "sata": false} {
		in := prepared
		in.VMI, in.Machine = load(t, "typical"), kvmHost
		in.VMI.Spec.Domain.Devices.Disks[1].Disk.Bus = bus
		domain, _, err := Convert(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := domain.Devices.Disks[1].ReadOnly != nil; got != want {
			t.Errorf("on %s it is read-only: %v, want %v", bus, got, want)
		}
	}
}

func TestAllFaultsAreReported(t *testing.T) {
	in := prepared
	in.VMI, in.Machine = load(t, "typical"), kvmHost
	in.Disks, in.NICs = nil, nil
	_, _, err := Convert(in)
	for _, want := range []string{"disks[0]", "disks[1]", "interfaces[0]"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is not reported: %v", want, err)
		}
	}
}

func TestDiskKeepsItsNameAcrossHotplug(t *testing.T) {
	names := newDeviceNames([]v1.VolumeStatus{{Name: "b", Target: "vda"}})
	if got := names.next("a", v1.DiskBusVirtio); got != "vdb" {
		t.Errorf("a new disk got %s", got)
	}
	if got := names.next("b", v1.DiskBusVirtio); got != "vda" {
		t.Errorf("the disk that was vda became %s", got)
	}
	if got := names.next("c", v1.DiskBusSATA); got != "sda" {
		t.Errorf("the first SATA disk is %s", got)
	}
}

func TestLettersCountAsTheKernelDoes(t *testing.T) {
	for i, want := range map[int]string{0: "a", 25: "z", 26: "aa", 51: "az", 52: "ba", 701: "zz", 702: "aaa"} {
		if got := letters(i); got != want {
			t.Errorf("%d: got %s, want %s", i, got, want)
		}
	}
}

// An alias becomes the machine that it stands for on the host of the first start,
// and stays that on a host where it stands for a newer one.
func TestMachineTypesAreVersioned(t *testing.T) {
	in := prepared
	in.VMI, in.Machine = load(t, "minimal"), tcgHost
	in.Machine.MachineTypes = []string{"q35", "pc-q35-7.2", "pc-q35-9.0"}
	started := func(canonical string) string {
		in.Machine.Canonical = map[string]string{"q35": canonical}
		out, _, err := Convert(in)
		if err != nil {
			t.Fatal(err)
		}
		return out.OS.Type.Machine
	}
	if got := started("pc-q35-7.2"); got != "pc-q35-7.2" {
		t.Errorf("started as %s", got)
	}
	in.VMI.Status.Machine = &v1.Machine{Type: "pc-q35-7.2"}
	if got := started("pc-q35-9.0"); got != "pc-q35-7.2" {
		t.Errorf("started again as %s", got)
	}
}
