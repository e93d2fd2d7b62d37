// Package vmitest draws instances for property tests: manifests as users write
// them, most of them sensible, some with values that make no sense. Only tests
// import it.
package vmitest

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"pgregory.net/rapid"
)

// draw is one instance being drawn. faults lets values in that make no sense.
type draw struct {
	*rapid.T
	faults bool
}

// Instance draws an instance as a client would create it: without defaults. Most
// instances have no malformed values.
func Instance(rt *rapid.T) *kubevirtv1.VirtualMachineInstance {
	t := draw{rt, rapid.IntRange(0, 3).Draw(rt, "faults") == 0}
	vmi := &kubevirtv1.VirtualMachineInstance{}
	vmi.Namespace, vmi.Name, vmi.UID = "ns", "vm", "6f5b2a34-0000-4000-8000-000000000001"
	d := &vmi.Spec.Domain
	drawCPU(t, d)
	drawMemory(t, d)
	drawMachine(t, d)
	drawClock(t, d)
	drawDevices(t, d)
	drawNetworks(t, &vmi.Spec)
	for i := range rapid.IntRange(0, 4).Draw(t.T, "volumes") {
		drawVolume(t, &vmi.Spec, fmt.Sprintf("v%d", i))
	}
	return vmi
}

// one draws one of a few.
func one[T any](t draw, name string, of ...T) T { return rapid.SampledFrom(of).Draw(t.T, name) }

// odd draws one of a few values or, rarely and only if faults are allowed, the wrong
// one.
func odd[T any](t draw, name string, wrong T, of ...T) T {
	if t.faults && rapid.IntRange(0, 5).Draw(t.T, "wrong "+name) == 0 {
		return wrong
	}
	return one(t, name, of...)
}

// maybe draws one of a few, or nothing.
func maybe[T any](t draw, name string, of ...T) *T {
	if !rapid.Bool().Draw(t.T, "has "+name) {
		return nil
	}
	v := one(t, name, of...)
	return &v
}

// set calls put in some of the cases.
func set(t draw, name string, put func()) {
	if rapid.IntRange(0, 3).Draw(t.T, "set "+name) == 0 {
		put()
	}
}

// fault calls put in some of the cases that may have faults.
func fault(t draw, name string, put func()) {
	if t.faults {
		set(t, name, put)
	}
}

func quantity(t draw, name string, of ...string) resource.Quantity {
	return resource.MustParse(one(t, name, of...))
}

func drawCPU(t draw, d *kubevirtv1.DomainSpec) {
	res := &d.Resources
	res.Requests, res.Limits = corev1.ResourceList{}, corev1.ResourceList{}
	set(t, "cpu request", func() {
		res.Requests[corev1.ResourceCPU] = quantity(t, "cpu request", "0", "100m", "1", "1500m")
	})
	set(t, "cpu limit", func() { res.Limits[corev1.ResourceCPU] = quantity(t, "cpu limit", "2500m", "16") })
	set(t, "cpu", func() {
		count := func(name string) uint32 { return odd[uint32](t, name, 4294967295, 0, 0, 1, 2, 3) }
		d.CPU = &kubevirtv1.CPU{Sockets: count("sockets"), Cores: count("cores"), Threads: one[uint32](t, "threads", 0, 1, 2, 3)}
		d.CPU.Model = one(t, "model", "", "", "host-model", "host-passthrough", "Haswell")
		d.CPU.MaxSockets = one[uint32](t, "max sockets", 0, 0, 1, 4, 100)
		set(t, "features", func() {
			d.CPU.Features = []kubevirtv1.CPUFeature{{Name: odd(t, "feature", "", "aes", "mpx"), Policy: odd(t, "feature policy", "sometimes", "", "require", "forbid", "optional")}}
		})
	})
}

func drawMemory(t draw, d *kubevirtv1.DomainSpec) {
	res := &d.Resources
	sizes := []string{"64Mi", "128Mi", "1G", "1Gi", "4Gi", "3000000", "1T"}
	set(t, "memory request", func() { res.Requests[corev1.ResourceMemory] = quantity(t, "memory request", sizes...) })
	set(t, "memory limit", func() { res.Limits[corev1.ResourceMemory] = quantity(t, "memory limit", sizes...) })
	set(t, "ephemeral request", func() {
		res.Requests[corev1.ResourceEphemeralStorage] = quantity(t, "ephemeral request", "1Gi", "10Gi")
	})
	res.OvercommitGuestOverhead = rapid.Bool().Draw(t.T, "overcommit overhead")
	if !rapid.Bool().Draw(t.T, "has memory") {
		return
	}
	d.Memory = &kubevirtv1.Memory{}
	if guest := maybe(t, "guest", sizes...); guest != nil {
		q := resource.MustParse(*guest)
		d.Memory.Guest = &q
	}
	set(t, "max guest", func() {
		q := quantity(t, "max guest", "64Mi", "2Gi", "16Gi", "10000001")
		d.Memory.MaxGuest = &q
	})
	set(t, "hugepages", func() {
		d.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: odd(t, "page size", "big", "2Mi", "2Mi", "2048Ki", "2097152")}
	})
}

func drawMachine(t draw, d *kubevirtv1.DomainSpec) {
	set(t, "machine", func() {
		d.Machine = &kubevirtv1.Machine{Type: odd(t, "machine type", "pc", "q35", "pc-q35-7.2")}
	})
	set(t, "firmware", func() {
		d.Firmware = &kubevirtv1.Firmware{Serial: one(t, "serial", "", "abc"), UUID: ""}
		set(t, "bios", func() {
			d.Firmware.Bootloader = &kubevirtv1.Bootloader{BIOS: &kubevirtv1.BIOS{UseSerial: maybe(t, "use serial", true, false)}}
		})
		set(t, "efi", func() {
			if d.Firmware.Bootloader == nil {
				d.Firmware.Bootloader = &kubevirtv1.Bootloader{}
			}
			d.Firmware.Bootloader.EFI = &kubevirtv1.EFI{SecureBoot: maybe(t, "secure boot", true, false), Persistent: maybe(t, "efi persistent", true, false)}
		})
		fault(t, "acpi table", func() { d.Firmware.ACPI = &kubevirtv1.ACPI{SlicNameRef: "v0"} })
	})
	set(t, "features", func() {
		d.Features = &kubevirtv1.Features{}
		set(t, "smm", func() { d.Features.SMM = &kubevirtv1.FeatureState{Enabled: maybe(t, "smm", true, false)} })
		set(t, "kvm hidden", func() { d.Features.KVM = &kubevirtv1.FeatureKVM{Hidden: true} })
	})
	fault(t, "launch security", func() { d.LaunchSecurity = &kubevirtv1.LaunchSecurity{SEV: &kubevirtv1.SEV{}} })
	d.RebootPolicy = maybe(t, "reboot policy", kubevirtv1.RebootPolicyReboot, odd(t, "policy", "Sleep", kubevirtv1.RebootPolicyTerminate))
	d.IOThreadsPolicy = maybe(t, "io threads", kubevirtv1.IOThreadsPolicyShared, kubevirtv1.IOThreadsPolicyAuto, kubevirtv1.IOThreadsPolicySupplementalPool)
	set(t, "pool", func() {
		d.IOThreads = &kubevirtv1.DiskIOThreads{SupplementalPoolThreadCount: maybe(t, "pool size", 1, odd[uint32](t, "pool", 0, 4))}
	})
}

func drawClock(t draw, d *kubevirtv1.DomainSpec) {
	set(t, "clock", func() {
		d.Clock = &kubevirtv1.Clock{}
		set(t, "utc", func() {
			d.Clock.UTC = &kubevirtv1.ClockOffsetUTC{OffsetSeconds: maybe(t, "offset", 0, 3600)}
		})
		d.Clock.Timezone = maybe(t, "timezone", "UTC", odd(t, "zone", kubevirtv1.ClockOffsetTimezone("Mars/Base"), "Europe/Berlin"))
		set(t, "timers", func() {
			d.Clock.Timer = &kubevirtv1.Timer{
				RTC: &kubevirtv1.RTCTimer{TickPolicy: odd(t, "rtc policy", "soon", kubevirtv1.RTCTickPolicy(""), kubevirtv1.RTCTickPolicyDelay), Track: odd(t, "rtc track", "moon", kubevirtv1.RTCTimerTrack(""), kubevirtv1.TrackGuest)},
				PIT: &kubevirtv1.PITTimer{TickPolicy: odd(t, "pit policy", "soon", kubevirtv1.PITTickPolicy(""), kubevirtv1.PITTickPolicyDelay)},
			}
		})
	})
}

func drawDevices(t draw, d *kubevirtv1.DomainSpec) {
	dev := &d.Devices
	dev.AutoattachGraphicsDevice = maybe(t, "graphics", true, false)
	dev.AutoattachVSOCK = maybe(t, "vsock", true, false)
	set(t, "video", func() { dev.Video = &kubevirtv1.VideoDevice{Type: odd(t, "video", "cga", "", "vga", "bochs")} })
	for i := range rapid.IntRange(0, 2).Draw(t.T, "host devices") {
		dev.HostDevices = append(dev.HostDevices, kubevirtv1.HostDevice{Name: fmt.Sprintf("h%d", i), DeviceName: odd(t, "device", "", "acme.com/nic", "acme.com/disk")})
	}
	for i := range rapid.IntRange(0, 2).Draw(t.T, "gpus") {
		dev.GPUs = append(dev.GPUs, kubevirtv1.GPU{Name: fmt.Sprintf("g%d", i), DeviceName: one(t, "gpu", "acme.com/gpu", "acme.com/nic")})
	}
	set(t, "input", func() {
		dev.Inputs = []kubevirtv1.Input{{Name: "i", Type: odd(t, "input type", "wheel", kubevirtv1.InputTypeTablet, "", "keyboard"), Bus: odd(t, "input bus", "ps2", kubevirtv1.InputBusUSB, "")}}
	})
	set(t, "watchdog", func() {
		dev.Watchdog = &kubevirtv1.Watchdog{Name: "w"}
		set(t, "i6300esb", func() {
			dev.Watchdog.I6300ESB = &kubevirtv1.I6300ESBWatchdog{Action: odd(t, "action", "panic", kubevirtv1.WatchdogActionReset, "")}
		})
		fault(t, "diag288", func() { dev.Watchdog.Diag288 = &kubevirtv1.Diag288Watchdog{} })
	})
	set(t, "tpm", func() {
		dev.TPM = &kubevirtv1.TPMDevice{Enabled: maybe(t, "tpm", true, false), Persistent: maybe(t, "persistent", true, false)}
	})
	set(t, "sound", func() { dev.Sound = &kubevirtv1.SoundDevice{Name: "s", Model: odd(t, "sound", "sb16", "", "ich9")} })
	fault(t, "passthrough", func() { dev.ClientPassthrough = &kubevirtv1.ClientPassthroughDevices{} })
	set(t, "panic", func() {
		dev.PanicDevices = []kubevirtv1.PanicDevice{{Model: maybe(t, "panic", kubevirtv1.Hyperv, odd(t, "panic model", "blue", kubevirtv1.Pvpanic))}}
	})
	fault(t, "metrics", func() { dev.DownwardMetrics = &kubevirtv1.DownwardMetrics{} })
}

func drawNetworks(t draw, spec *kubevirtv1.VirtualMachineInstanceSpec) {
	for i := range rapid.IntRange(0, 2).Draw(t.T, "networks") {
		name := fmt.Sprintf("n%d", i)
		iface := kubevirtv1.Interface{Name: name, Model: odd(t, "nic model", "ne3000", "", "virtio", "e1000e"),
			MacAddress: odd(t, "mac", "01:00:00:00:00:00", "", "02:00:00:00:00:0"+fmt.Sprint(i)), PciAddress: odd(t, "nic pci", "here", "", "0000:01:00.0")}
		iface.Bridge = &kubevirtv1.InterfaceBridge{}
		network := kubevirtv1.Network{Name: name}
		if rapid.Bool().Draw(t.T, "pod") {
			network.Pod = &kubevirtv1.PodNetwork{}
		} else {
			network.Multus = &kubevirtv1.MultusNetwork{NetworkName: "lan"}
		}
		spec.Networks = append(spec.Networks, network)
		spec.Domain.Devices.Interfaces = append(spec.Domain.Devices.Interfaces, iface)
	}
}

func drawVolume(t draw, spec *kubevirtv1.VirtualMachineInstanceSpec, name string) {
	v := kubevirtv1.Volume{Name: name}
	switch rapid.IntRange(0, 6).Draw(t.T, "source") {
	case 0:
		v.ContainerDisk = &kubevirtv1.ContainerDiskSource{Image: "registry/tiny"}
	case 1:
		v.EmptyDisk = &kubevirtv1.EmptyDiskSource{Capacity: quantity(t, "capacity", "1Gi", "1G", "5k", "1")}
	case 2:
		v.PersistentVolumeClaim = &kubevirtv1.PersistentVolumeClaimVolumeSource{}
		v.PersistentVolumeClaim.ClaimName = one(t, "claim", "a", "b")
	case 3:
		v.DataVolume = &kubevirtv1.DataVolumeSource{Name: one(t, "data volume", "a", "c")}
	case 4:
		v.CloudInitNoCloud = &kubevirtv1.CloudInitNoCloudSource{UserData: "#cloud-config"}
	case 5:
		v.ConfigMap = &kubevirtv1.ConfigMapVolumeSource{}
		v.ConfigMap.Name = "config"
	case 6:
		v.Ephemeral = &kubevirtv1.EphemeralVolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: one(t, "ephemeral claim", "a", "d")}}
	}
	spec.Volumes = append(spec.Volumes, v)
	set(t, "disk", func() { spec.Domain.Devices.Disks = append(spec.Domain.Devices.Disks, drawDisk(t, name)) })
}

func drawDisk(t draw, name string) kubevirtv1.Disk {
	disk := kubevirtv1.Disk{Name: name, BootOrder: maybe(t, "boot order", odd[uint](t, "order", 0, 1, 2, 3)), Cache: odd(t, "cache", "fast", kubevirtv1.DriverCache(""), "writeback", "none"),
		IO: odd(t, "io", "quick", kubevirtv1.DriverIO(""), "", "threads", "native"), Shareable: maybe(t, "shareable", true, false), DedicatedIOThread: maybe(t, "thread", true, false)}
	bus := odd(t, "bus", "ide", kubevirtv1.DiskBus(""), "virtio", "sata", "scsi", "usb")
	switch rapid.IntRange(0, 3).Draw(t.T, "target") {
	case 0:
		disk.Disk = &kubevirtv1.DiskTarget{Bus: bus, ReadOnly: rapid.Bool().Draw(t.T, "read-only"), PciAddress: odd(t, "disk pci", "there", "", "", "0000:02:00.0")}
	case 1:
		disk.CDRom = &kubevirtv1.CDRomTarget{Bus: bus, ReadOnly: maybe(t, "cd read-only", true, false), Tray: odd(t, "tray", "ajar", kubevirtv1.TrayState(""), "open")}
	case 2:
		disk.LUN = &kubevirtv1.LunTarget{Bus: bus, ReadOnly: rapid.Bool().Draw(t.T, "lun read-only"), Reservation: rapid.Bool().Draw(t.T, "reservation")}
	}
	set(t, "block size", func() {
		disk.BlockSize = &kubevirtv1.BlockSize{Custom: &kubevirtv1.CustomBlockSize{Logical: odd[uint](t, "logical", 100, 512, 4096), Physical: one[uint](t, "physical", 4096)}}
	})
	return disk
}
