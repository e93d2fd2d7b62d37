package domain

import (
	"errors"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	v1 "kubevirt.io/api/core/v1"
)

// fieldErrors lists what Convert found wrong.
func fieldErrors(err error) []*FieldError {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []*FieldError
		for _, one := range joined.Unwrap() {
			all = append(all, fieldErrors(one)...)
		}
		return all
	}
	var one *FieldError
	if errors.As(err, &one) {
		return []*FieldError{one}
	}
	return nil
}

// refusal is a machine that is good but for one thing, and what is said of it.
type refusal struct {
	field, reason string
	unsupported   bool
	spoil         func(*Input)
}

// These shorten what the tables below change.
func devicesOf(in *Input) *v1.Devices   { return &in.VMI.Spec.Domain.Devices }
func firstDisk(in *Input) *v1.Disk      { return &devicesOf(in).Disks[0] }
func firstNIC(in *Input) *v1.Interface  { return &devicesOf(in).Interfaces[0] }
func firmwareOf(in *Input) *v1.Firmware { return in.VMI.Spec.Domain.Firmware }

// rootDisk changes what the host prepared for the first disk.
func rootDisk(in *Input, change func(*Disk)) {
	disks := map[string]Disk{}
	for name, d := range in.Disks {
		disks[name] = d
	}
	d := disks["root"]
	change(&d)
	disks["root"] = d
	in.Disks = disks
}

// A single fault gives a single error, with the field and the words for it.
func TestEachRefusalStandsAlone(t *testing.T) {
	for _, table := range [][]refusal{diskRefusals(), deviceRefusals(), networkRefusals(), machineRefusals()} {
		for _, tc := range table {
			t.Run(tc.field+" "+tc.reason, func(t *testing.T) {
				in := prepared
				in.VMI, in.Machine = load(t, "typical"), kvmHost
				tc.spoil(&in)
				_, _, err := Convert(in)
				got := fieldErrors(err)
				if len(got) != 1 {
					t.Fatalf("want one error, got %v", err)
				}
				if got[0].Field != tc.field || !strings.Contains(got[0].Reason, tc.reason) || got[0].Unsupported != tc.unsupported {
					t.Errorf("got %v (unsupported %v)", got[0], got[0].Unsupported)
				}
			})
		}
	}
}

func diskRefusals() []refusal {
	const at = "spec.domain.devices.disks[0]"
	return []refusal{
		{at + ".bootOrder", "at least 1", false, func(in *Input) { firstDisk(in).BootOrder = ptr(uint(0)) }},
		{at + ".name", "no path", false, func(in *Input) { rootDisk(in, func(d *Disk) { *d = Disk{} }) }},
		{at + ".name", "format of its volume is not known", false, func(in *Input) { rootDisk(in, func(d *Disk) { d.Format = "" }) }},
		{at + ".name", "not raw or qcow2", true, func(in *Input) { rootDisk(in, func(d *Disk) { d.Format = "vmdk" }) }},
		{at + ".name", `of type "tape"`, true, func(in *Input) { rootDisk(in, func(d *Disk) { d.Type = "tape" }) }},
		{at + ".name", `of type "network"`, true, func(in *Input) { rootDisk(in, func(d *Disk) { d.Type = DiskNetwork }) }},
		{at + ".cache", "must not be cached", false, func(in *Input) {
			firstDisk(in).Shareable, firstDisk(in).Cache = ptr(true), v1.CacheWriteBack
		}},
		{at + ".cache", "must not be cached", false, func(in *Input) {
			rootDisk(in, func(d *Disk) { d.Shareable = true })
			firstDisk(in).Cache = v1.CacheWriteThrough
		}},
		{at + ".io", `needs cache none, the disk has "writeback"`, false, func(in *Input) {
			firstDisk(in).IO, firstDisk(in).Cache = v1.IONative, v1.CacheWriteBack
		}},
		{at + ".errorPolicy", "must be stop", false, func(in *Input) { firstDisk(in).ErrorPolicy = ptr(v1.DiskErrorPolicy("panic")) }},
		{at + ".disk.pciAddress", "only a virtio disk", false, func(in *Input) {
			firstDisk(in).Disk.Bus, firstDisk(in).Disk.PciAddress = v1.DiskBusSATA, "0000:81:01.0"
		}},
		{at + ".lun.reservation", "not passed on", true, func(in *Input) {
			firstDisk(in).DiskDevice = v1.DiskDevice{LUN: &v1.LunTarget{Bus: v1.DiskBusSCSI, Reservation: true}}
		}},
		{at + ".blockSize.custom", "both must be set", false, func(in *Input) {
			firstDisk(in).BlockSize = &v1.BlockSize{Custom: &v1.CustomBlockSize{Physical: 4096}}
		}},
		{at + ".blockSize.custom", "not be less than logical", false, func(in *Input) {
			firstDisk(in).BlockSize = &v1.BlockSize{Custom: &v1.CustomBlockSize{Logical: 4096, Physical: 512}}
		}},
		{at + ".blockSize.matchVolume", "not known", true, func(in *Input) {
			firstDisk(in).BlockSize = &v1.BlockSize{MatchVolume: &v1.FeatureState{}}
		}},
	}
}

func deviceRefusals() []refusal {
	const at = "spec.domain.devices"
	return []refusal{
		{at + ".video", "needs autoattachGraphicsDevice", false, func(in *Input) {
			devicesOf(in).AutoattachGraphicsDevice, devicesOf(in).Video = ptr(false), &v1.VideoDevice{Type: "vga"}
		}},
		{at + ".video.type", "must be vga", false, func(in *Input) { devicesOf(in).Video = &v1.VideoDevice{Type: "voodoo"} }},
		{at + ".inputs[0].type", "tablet or keyboard", false, func(in *Input) {
			devicesOf(in).Inputs = []v1.Input{{Name: "i", Type: "joystick", Bus: v1.InputBusUSB}}
		}},
		{at + ".inputs[0].bus", "usb or virtio", false, func(in *Input) {
			devicesOf(in).Inputs = []v1.Input{{Name: "i", Type: v1.InputTypeTablet, Bus: "ps2"}}
		}},
		{at + ".sound.model", "ich9 or ac97", false, func(in *Input) { devicesOf(in).Sound = &v1.SoundDevice{Name: "s", Model: "sb16"} }},
		{at + ".panicDevices[0].model", "hyperv, isa or pvpanic", false, func(in *Input) {
			devicesOf(in).PanicDevices = []v1.PanicDevice{{Model: ptr(v1.PanicDeviceModel("bell"))}}
		}},
		{at + ".watchdog.diag288", "s390x", true, func(in *Input) {
			devicesOf(in).Watchdog = &v1.Watchdog{Name: "w", WatchdogDevice: v1.WatchdogDevice{Diag288: &v1.Diag288Watchdog{}}}
		}},
		{at + ".watchdog.i6300esb.action", "poweroff, reset or shutdown", false, func(in *Input) {
			devicesOf(in).Watchdog = &v1.Watchdog{Name: "w", WatchdogDevice: v1.WatchdogDevice{I6300ESB: &v1.I6300ESBWatchdog{Action: "bark"}}}
		}},
		{at + ".downwardMetrics", "not shown", true, func(in *Input) { devicesOf(in).DownwardMetrics = &v1.DownwardMetrics{} }},
		{at + ".autoattachVSOCK", "no context identifier", true, func(in *Input) {
			devicesOf(in).AutoattachVSOCK, in.VSOCKCID = ptr(true), 2
		}},
		{at + ".filesystems[0]", "set virtiofs", false, func(in *Input) { devicesOf(in).Filesystems = []v1.Filesystem{{Name: "share"}} }},
		{at + ".filesystems[0].name", "not been prepared", false, func(in *Input) {
			devicesOf(in).Filesystems = []v1.Filesystem{{Name: "other", Virtiofs: &v1.FilesystemVirtiofs{}}}
		}},
		{at + ".hostDevices[0].name", "no address", false, func(in *Input) {
			in.HostDevices = map[string]HostDevice{"bare": {}}
			devicesOf(in).HostDevices = []v1.HostDevice{{Name: "bare"}}
		}},
		{at + ".hostDevices[0].deviceName", "set aside", true, func(in *Input) {
			devicesOf(in).HostDevices = []v1.HostDevice{{Name: "none", DeviceName: "example.org/none"}}
		}},
	}
}

func networkRefusals() []refusal {
	const at = "spec.domain.devices.interfaces[0]"
	return []refusal{
		{at + ".name", "set and unique", false, func(in *Input) { firstNIC(in).Name = "" }},
		{"spec.domain.devices.interfaces[1].name", "set and unique", false, func(in *Input) {
			devicesOf(in).Interfaces = append(devicesOf(in).Interfaces, *firstNIC(in))
		}},
		{at + ".name", "no network has this name", false, func(in *Input) { firstNIC(in).Name = "other" }},
		{at + ".name", "no device on this host", false, func(in *Input) {
			in.NICs = map[string]NIC{"default": {MAC: "02:00:00:00:00:01"}}
		}},
		{at + ".bootOrder", "at least 1", false, func(in *Input) { firstNIC(in).BootOrder = ptr(uint(0)) }},
	}
}

func machineRefusals() []refusal {
	const at = "spec.domain"
	quantity := resource.MustParse
	return []refusal{
		{"spec.architecture", "this host is aarch64", true, func(in *Input) { in.Machine.Arch = "aarch64" }},
		{at + ".clock", "exclude each other", false, func(in *Input) {
			in.VMI.Spec.Domain.Clock = &v1.Clock{ClockOffset: v1.ClockOffset{UTC: &v1.ClockOffsetUTC{}, Timezone: ptr(v1.ClockOffsetTimezone("Europe/Rome"))}}
		}},
		{at + ".cpu.numa.guestMappingPassthrough", "memory nodes", true, func(in *Input) {
			in.VMI.Spec.Domain.CPU.NUMA = &v1.NUMA{GuestMappingPassthrough: &v1.NUMAGuestMappingPassthrough{}}
		}},
		{at + ".cpu.features[0].name", "must be set", false, func(in *Input) {
			in.VMI.Spec.Domain.CPU.Features = []v1.CPUFeature{{Policy: "require"}}
		}},
		{at + ".cpu.isolateEmulatorThread", "needs dedicatedCpuPlacement", false, func(in *Input) { in.VMI.Spec.Domain.CPU.IsolateEmulatorThread = true }},
		{at + ".cpu.realtime", "needs dedicatedCpuPlacement", false, func(in *Input) { in.VMI.Spec.Domain.CPU.Realtime = &v1.Realtime{} }},
		{at + ".cpu.isolateEmulatorThread", "set aside for the emulator", true, func(in *Input) {
			in.VMI.Spec.Domain.CPU.DedicatedCPUPlacement, in.VMI.Spec.Domain.CPU.IsolateEmulatorThread = true, true
			in.Pinning = &Pinning{VCPUs: []int{2, 3, 4, 5}}
		}},
		{at + ".memory.guest", "multiple of the page size 2Mi", false, func(in *Input) {
			guest := quantity("1025Mi")
			in.VMI.Spec.Domain.Memory.Guest = &guest
			in.VMI.Spec.Domain.Memory.Hugepages = &v1.Hugepages{PageSize: "2Mi"}
		}},
		{at + ".memory.maxGuest", "less than guest", false, func(in *Input) {
			most := quantity("512Mi")
			in.VMI.Spec.Domain.Memory.MaxGuest = &most
		}},
		{at + ".features.smm.enabled", "secure boot needs it", false, func(in *Input) {
			firmwareOf(in).Bootloader = &v1.Bootloader{EFI: &v1.EFI{}}
			in.VMI.Spec.Domain.Features.SMM = &v1.FeatureState{Enabled: ptr(false)}
		}},
		{at + ".firmware.acpi", "cannot be added", true, func(in *Input) { firmwareOf(in).ACPI = &v1.ACPI{} }},
		{at + ".firmware.bootloader", "exclude each other", false, func(in *Input) {
			firmwareOf(in).Bootloader = &v1.Bootloader{BIOS: &v1.BIOS{}, EFI: &v1.EFI{}}
		}},
		{at + ".firmware.bootloader.efi", "no EFI firmware", true, func(in *Input) {
			in.Machine.EFI, in.Machine.SecureBoot = false, false
			firmwareOf(in).Bootloader = &v1.Bootloader{EFI: &v1.EFI{}}
		}},
		{at + ".firmware.kernelBoot.container.kernelPath", "not been fetched", false, func(in *Input) {
			in.KernelBoot.Kernel = ""
			firmwareOf(in).KernelBoot = &v1.KernelBoot{Container: &v1.KernelBootContainer{KernelPath: "/k"}}
		}},
		{at + ".firmware.kernelBoot.container.initrdPath", "not been fetched", false, func(in *Input) {
			in.KernelBoot.Initrd = ""
			firmwareOf(in).KernelBoot = &v1.KernelBoot{Container: &v1.KernelBootContainer{KernelPath: "/k", InitrdPath: "/i"}}
		}},
		{at + ".firmware.kernelBoot.kernelArgs", "needs a kernel", false, func(in *Input) {
			firmwareOf(in).KernelBoot = &v1.KernelBoot{KernelArgs: "quiet"}
		}},
		{at + ".rebootPolicy", "Reboot or Terminate", false, func(in *Input) {
			in.VMI.Spec.Domain.RebootPolicy = ptr(v1.RebootPolicy("Shrug"))
		}},
		{at + ".ioThreadsPolicy", "shared, auto or supplementalPool", false, func(in *Input) {
			in.VMI.Spec.Domain.IOThreadsPolicy = ptr(v1.IOThreadsPolicy("many"))
		}},
	}
}

// What a disk is told of its volume's blocks, and what it is not.
func TestBlockSizes(t *testing.T) {
	for name, tc := range map[string]struct {
		size   *v1.BlockSize
		volume Disk
		want   [3]uint // logical, physical, discard; zeros are nothing
	}{
		"nothing is asked":     {nil, Disk{LogicalBlockSize: 4096}, [3]uint{}},
		"custom":               {&v1.BlockSize{Custom: &v1.CustomBlockSize{Logical: 512, Physical: 4096}}, Disk{}, [3]uint{512, 4096, 0}},
		"custom granularity":   {&v1.BlockSize{Custom: &v1.CustomBlockSize{Logical: 512, Physical: 512, DiscardGranularity: ptr(uint(4096))}}, Disk{}, [3]uint{512, 512, 4096}},
		"the smallest":         {&v1.BlockSize{Custom: &v1.CustomBlockSize{Logical: 1, Physical: 1}}, Disk{}, [3]uint{1, 1, 0}},
		"as the volume":        {&v1.BlockSize{MatchVolume: &v1.FeatureState{}}, Disk{LogicalBlockSize: 512, PhysicalBlockSize: 4096}, [3]uint{512, 4096, 0}},
		"physical is not told": {&v1.BlockSize{MatchVolume: &v1.FeatureState{}}, Disk{LogicalBlockSize: 4096}, [3]uint{4096, 4096, 0}},
		"switched off":         {&v1.BlockSize{MatchVolume: &v1.FeatureState{Enabled: ptr(false)}}, Disk{LogicalBlockSize: 4096}, [3]uint{}},
		"neither of the two":   {&v1.BlockSize{}, Disk{LogicalBlockSize: 4096}, [3]uint{}},
	} {
		t.Run(name, func(t *testing.T) {
			in := prepared
			in.VMI, in.Machine = load(t, "typical"), kvmHost
			firstDisk(&in).BlockSize = tc.size
			rootDisk(&in, func(d *Disk) {
				d.LogicalBlockSize, d.PhysicalBlockSize = tc.volume.LogicalBlockSize, tc.volume.PhysicalBlockSize
			})
			domain, _, err := Convert(in)
			if err != nil {
				t.Fatal(err)
			}
			var got [3]uint
			if b := domain.Devices.Disks[0].BlockIO; b != nil {
				got = [3]uint{b.LogicalBlockSize, b.PhysicalBlockSize, 0}
				if b.DiscardGranularity != nil {
					got[2] = *b.DiscardGranularity
				}
			}
			if got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
}

// A virtual GPU shows a display only where there is one to show it on, and boots
// on it unless that is switched off.
func TestVirtualGPUDisplay(t *testing.T) {
	off, on := &v1.FeatureState{Enabled: ptr(false)}, &v1.FeatureState{}
	for name, tc := range map[string]struct {
		options        *v1.VGPUOptions
		graphics       bool
		display, ramFB string
	}{
		"nothing said":       {nil, true, "", ""},
		"a display":          {&v1.VGPUOptions{Display: &v1.VGPUDisplayOptions{}}, true, "on", "on"},
		"shown from boot":    {&v1.VGPUOptions{Display: &v1.VGPUDisplayOptions{RamFB: on}}, true, "on", "on"},
		"not during boot":    {&v1.VGPUOptions{Display: &v1.VGPUDisplayOptions{RamFB: off}}, true, "on", ""},
		"no display":         {&v1.VGPUOptions{Display: &v1.VGPUDisplayOptions{Enabled: ptr(false)}}, true, "off", "off"},
		"nothing to show on": {&v1.VGPUOptions{Display: &v1.VGPUDisplayOptions{}}, false, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			in := prepared
			in.VMI, in.Machine = load(t, "typical"), kvmHost
			devicesOf(&in).AutoattachGraphicsDevice = ptr(tc.graphics)
			devicesOf(&in).GPUs = []v1.GPU{{Name: "vgpu1", DeviceName: "nvidia.com/T4", VirtualGPUOptions: tc.options}}
			domain, _, err := Convert(in)
			if err != nil {
				t.Fatal(err)
			}
			if got := domain.Devices.Hostdevs[0].SubsysMDev; got.Display != tc.display || got.RamFB != tc.ramFB {
				t.Errorf("display %q and RAM framebuffer %q, want %q and %q", got.Display, got.RamFB, tc.display, tc.ramFB)
			}
		})
	}
}
