package vmi

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func devices(f func(d *kubevirtv1.Devices)) func(*spec) {
	return func(s *spec) { f(&s.Domain.Devices) }
}

// disk changes the first disk, which is on virtio.
func disk(f func(d *kubevirtv1.Disk)) func(*spec) {
	return devices(func(d *kubevirtv1.Devices) { f(&d.Disks[0]) })
}

// sata makes the first disk one on SATA, and changes it.
func sata(f func(d *kubevirtv1.Disk)) func(*spec) {
	return disk(func(d *kubevirtv1.Disk) {
		d.Disk.Bus, d.Disk.PciAddress, d.BlockSize = kubevirtv1.DiskBusSATA, "", nil
		f(d)
	})
}

// nic changes the first interface, which is on the pod network.
func nic(f func(n *kubevirtv1.Interface)) func(*spec) {
	return devices(func(d *kubevirtv1.Devices) { f(&d.Interfaces[0]) })
}

// source gives the first volume another source.
func source(s kubevirtv1.VolumeSource) func(*spec) {
	return func(spec *spec) { spec.Volumes[0].VolumeSource = s }
}

func firmware(f kubevirtv1.Firmware) func(*spec) {
	return func(s *spec) { s.Domain.Firmware = &f }
}

func efi(e kubevirtv1.EFI) func(*spec) {
	return firmware(kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{EFI: &e}})
}

func smm(enabled *bool, then func(*spec)) func(*spec) {
	return func(s *spec) {
		s.Domain.Features = &kubevirtv1.Features{SMM: &kubevirtv1.FeatureState{Enabled: enabled}}
		then(s)
	}
}

func kernel(c kubevirtv1.KernelBootContainer) func(*spec) {
	return firmware(kubevirtv1.Firmware{KernelBoot: &kubevirtv1.KernelBoot{KernelArgs: "quiet", Container: &c}})
}

func ready(handler kubevirtv1.Handler) func(*spec) {
	return func(s *spec) { s.ReadinessProbe = &kubevirtv1.Probe{Handler: handler} }
}

// withoutPods takes the pod network away.
func withoutPods(then func(*spec)) func(*spec) {
	return func(s *spec) {
		s.Networks, s.Domain.Devices.Interfaces = s.Networks[1:], s.Domain.Devices.Interfaces[1:]
		then(s)
	}
}

func noCloud(c kubevirtv1.CloudInitNoCloudSource) func(*spec) {
	return func(s *spec) { s.Volumes[1].CloudInitNoCloud = &c }
}

var (
	httpGet = kubevirtv1.Handler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(80)}}
	ping    = kubevirtv1.Handler{GuestAgentPing: &kubevirtv1.GuestAgentPing{}}
	exec    = kubevirtv1.Handler{Exec: &corev1.ExecAction{Command: []string{"true"}}}
	tcp     = kubevirtv1.Handler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(22)}}
)

// accepted are changes that make another good instance of the good one: whoever asks
// for them must get them.
var accepted = map[string]func(*spec){
	"no names":                func(s *spec) { s.Hostname, s.Subdomain = "", "" },
	"a UUID in capitals":      firmware(kubevirtv1.Firmware{UUID: "5D307CA9-B3EF-428C-8861-06E72D69F223"}),
	"no bootloader":           firmware(kubevirtv1.Firmware{}),
	"BIOS":                    firmware(kubevirtv1.Firmware{Bootloader: &kubevirtv1.Bootloader{BIOS: &kubevirtv1.BIOS{}}}),
	"secure boot by default":  smm(nil, efi(kubevirtv1.EFI{})),
	"secure boot with SMM":    smm(new(true), efi(kubevirtv1.EFI{SecureBoot: new(true)})),
	"EFI without persistence": efi(kubevirtv1.EFI{SecureBoot: new(false), Persistent: new(false)}),
	"an image as KubeVirt takes it": func(s *spec) {
		s.Volumes[0].ContainerDisk.Image = "docker://[fd00::1]:5000/a/b@sha256:" + strings.Repeat("0", 64)
	},
	"a kernel":                     kernel(kubevirtv1.KernelBootContainer{Image: "i", KernelPath: "/boot/vmlinuz"}),
	"an initrd":                    kernel(kubevirtv1.KernelBootContainer{Image: "i", InitrdPath: "/boot/initrd"}),
	"a paused start":               func(s *spec) { s.StartStrategy = new(kubevirtv1.StartStrategyPaused) },
	"an eviction strategy":         func(s *spec) { s.EvictionStrategy = new(kubevirtv1.EvictionStrategyExternal) },
	"no probe":                     func(s *spec) { s.ReadinessProbe = nil },
	"a probe by HTTP":              ready(httpGet),
	"a probe by command":           withoutPods(ready(exec)),
	"a probe of the agent":         withoutPods(ready(ping)),
	"a watchdog":                   devices(func(d *kubevirtv1.Devices) { d.Watchdog = &kubevirtv1.Watchdog{Name: "dog"} }),
	"a TPM":                        devices(func(d *kubevirtv1.Devices) { d.TPM = &kubevirtv1.TPMDevice{} }),
	"a persistent TPM that is off": devices(func(d *kubevirtv1.Devices) { d.TPM = &kubevirtv1.TPMDevice{Enabled: new(false), Persistent: new(true)} }),
	"video":                        devices(func(d *kubevirtv1.Devices) { d.Video = &kubevirtv1.VideoDevice{Type: "virtio"} }),
	"video of no type": devices(func(d *kubevirtv1.Devices) {
		d.Video, d.AutoattachGraphicsDevice = &kubevirtv1.VideoDevice{}, new(true)
	}),
	"no graphics": devices(func(d *kubevirtv1.Devices) { d.AutoattachGraphicsDevice = new(false) }),
	"panic devices": devices(func(d *kubevirtv1.Devices) {
		d.PanicDevices = []kubevirtv1.PanicDevice{{}, {Model: new(kubevirtv1.Pvpanic)}}
	}),
	"sound of no model": devices(func(d *kubevirtv1.Devices) { d.Sound.Model = "" }),
	"a GPU":             devices(func(d *kubevirtv1.Devices) { d.GPUs = []kubevirtv1.GPU{{Name: "gpu", DeviceName: "nvidia.com/T4"}} }),
	"two inputs": devices(func(d *kubevirtv1.Devices) {
		d.Inputs = append(d.Inputs, kubevirtv1.Input{Name: "keys", Type: "keyboard"})
	}),
	"an empty CD-ROM drive": devices(func(d *kubevirtv1.Devices) {
		d.Disks = append(d.Disks, kubevirtv1.Disk{Name: "drive", DiskDevice: kubevirtv1.DiskDevice{CDRom: &kubevirtv1.CDRomTarget{Bus: "scsi", Tray: "open"}}})
	}),
	"a LUN on virtio":          devices(func(d *kubevirtv1.Devices) { d.Disks[2].LUN.Bus = "virtio" }),
	"a disk that is read only": disk(func(d *kubevirtv1.Disk) { d.Disk.ReadOnly = true }),
	"a thread for a disk":      disk(func(d *kubevirtv1.Disk) { d.DedicatedIOThread = new(true) }),
	"a disk on SATA":           sata(func(d *kubevirtv1.Disk) { d.DedicatedIOThread = new(false) }),
	"a disk on SATA with blocks": sata(func(d *kubevirtv1.Disk) {
		d.BlockSize = &kubevirtv1.BlockSize{Custom: &kubevirtv1.CustomBlockSize{Logical: 512, Physical: 4096}}
	}),
	"a shared disk":               disk(func(d *kubevirtv1.Disk) { d.Shareable = new(true) }),
	"a shared disk, cache unsaid": disk(func(d *kubevirtv1.Disk) { d.Shareable, d.Cache = new(true), "" }),
	"a cached disk with threads":  disk(func(d *kubevirtv1.Disk) { d.Cache, d.IO = "writeback", "threads" }),
	"native, cache unsaid":        disk(func(d *kubevirtv1.Disk) { d.Cache = "" }),
	"an error policy":             disk(func(d *kubevirtv1.Disk) { d.ErrorPolicy = new(kubevirtv1.DiskErrorPolicyReport) }),
	"blocks as the volume's":      disk(func(d *kubevirtv1.Disk) { d.BlockSize = &kubevirtv1.BlockSize{MatchVolume: &kubevirtv1.FeatureState{}} }),
	"blocks not as the volume's":  disk(func(d *kubevirtv1.Disk) { d.BlockSize.MatchVolume = &kubevirtv1.FeatureState{Enabled: new(false)} }),
	"logical and physical alike":  disk(func(d *kubevirtv1.Disk) { d.BlockSize.Custom.Logical = 4096 }),
	"one default of multus":       withoutPods(func(s *spec) { s.ReadinessProbe, s.Networks[0].Multus.Default = nil, true }),
	"a bridge to the pod network": nic(func(n *kubevirtv1.Interface) { n.Masquerade, n.Bridge = nil, &kubevirtv1.InterfaceBridge{} }),
	"a PCI address":               nic(func(n *kubevirtv1.Interface) { n.PciAddress = "0000:06:00.0" }),
	"a card that is down":         nic(func(n *kubevirtv1.Interface) { n.State = kubevirtv1.InterfaceStateLinkDown }),
	"ports without names":         nic(func(n *kubevirtv1.Interface) { n.Ports = []kubevirtv1.Port{{Port: 53}, {Port: 53, Protocol: "UDP"}} }),
	"no CPU limit":                func(s *spec) { delete(s.Domain.Resources.Limits, corev1.ResourceCPU) },
	"no memory limit":             func(s *spec) { delete(s.Domain.Resources.Limits, corev1.ResourceMemory) },
	"no requests":                 func(s *spec) { s.Domain.Resources.Requests = nil },
	"limits of zero": func(s *spec) {
		s.Domain.Resources = kubevirtv1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("0"), "memory": resource.MustParse("0")}}
	},
	"CPUs of its own, no amounts": func(s *spec) {
		s.Domain.CPU.DedicatedCPUPlacement, s.Domain.Resources = true, kubevirtv1.ResourceRequirements{}
	},
	"no CPU":            func(s *spec) { s.Domain.CPU = nil },
	"threads for disks": func(s *spec) { s.Domain.IOThreadsPolicy = new(kubevirtv1.IOThreadsPolicyShared) },
	"an end at reboot":  func(s *spec) { s.Domain.RebootPolicy = new(kubevirtv1.RebootPolicyTerminate) },
	"a clock at UTC": func(s *spec) {
		s.Domain.Clock = &kubevirtv1.Clock{ClockOffset: kubevirtv1.ClockOffset{UTC: &kubevirtv1.ClockOffsetUTC{}}}
	},
	"a clock with a time zone":                timezone("Europe/Berlin"),
	"timers":                                  timers(kubevirtv1.Timer{RTC: &kubevirtv1.RTCTimer{TickPolicy: "catchup", Track: "wall"}, PIT: &kubevirtv1.PITTimer{}, HPET: &kubevirtv1.HPETTimer{TickPolicy: "merge"}}),
	"a NUMA without passthrough":              func(s *spec) { s.Domain.CPU.NUMA = &kubevirtv1.NUMA{} },
	"a pull policy":                           func(s *spec) { s.Volumes[0].ContainerDisk.ImagePullPolicy = corev1.PullNever },
	"a data volume":                           source(kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{Name: "dv"}}),
	"an ephemeral disk":                       source(kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "base"}}}),
	"a secret":                                source(kubevirtv1.VolumeSource{Secret: &kubevirtv1.SecretVolumeSource{SecretName: "s"}}),
	"a service account":                       source(kubevirtv1.VolumeSource{ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{ServiceAccountName: "s"}}),
	"sysprep of a secret":                     source(kubevirtv1.VolumeSource{Sysprep: &kubevirtv1.SysprepSource{Secret: &corev1.LocalObjectReference{Name: "s"}}}),
	"sysprep of a config map":                 source(kubevirtv1.VolumeSource{Sysprep: &kubevirtv1.SysprepSource{ConfigMap: &corev1.LocalObjectReference{Name: "s"}}}),
	"a file of the host":                      source(kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/d", Type: kubevirtv1.HostDiskExists}}),
	"a new file of the host":                  source(kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/d", Type: kubevirtv1.HostDiskExistsOrCreate, Capacity: resource.MustParse("1Gi")}}),
	"cloud-init of a network alone":           noCloud(kubevirtv1.CloudInitNoCloudSource{NetworkData: "version: 2"}),
	"cloud-init of secrets":                   noCloud(kubevirtv1.CloudInitNoCloudSource{UserDataSecretRef: &corev1.LocalObjectReference{Name: "u"}, NetworkDataSecretRef: &corev1.LocalObjectReference{Name: "n"}}),
	"cloud-init in base64":                    noCloud(kubevirtv1.CloudInitNoCloudSource{UserDataBase64: "eA==", NetworkDataBase64: "eA=="}),
	"cloud-init without a name of its secret": noCloud(kubevirtv1.CloudInitNoCloudSource{UserDataSecretRef: &corev1.LocalObjectReference{}, UserData: "x"}),
	"a memory dump": func(s *spec) {
		v := kubevirtv1.Volume{Name: "dump", VolumeSource: kubevirtv1.VolumeSource{MemoryDump: &kubevirtv1.MemoryDumpVolumeSource{}}}
		v.MemoryDump.ClaimName = "dumps"
		s.Volumes = append(s.Volumes, v)
	},
}

func TestWhatIsGoodIsAccepted(t *testing.T) {
	for name, edit := range accepted {
		t.Run(name, func(t *testing.T) {
			vmi := instance(t)
			edit(&vmi.Spec)
			// As the template of a VirtualMachine, and as an instance of its own.
			vm := machine(t)
			vm.Spec.Template.Spec = *vmi.Spec.DeepCopy()
			if errs := ValidateVirtualMachine(defaults(), vm); len(errs) > 0 {
				t.Errorf("in a template it is refused: %v", errs.ToAggregate())
			}
			SetNewInstance(defaults(), vmi, time.Now())
			if errs := ValidateInstance(defaults(), vmi); len(errs) > 0 {
				t.Errorf("refused: %v", errs.ToAggregate())
			}
		})
	}
}

// moreFaults are further single faults in the good instance.
var moreFaults = map[string]struct {
	edit  func(*spec)
	field string
}{
	"secure boot, SMM off":  {smm(new(false), efi(kubevirtv1.EFI{})), "spec.domain.firmware.bootloader.efi.secureBoot"},
	"a UUID without dashes": {firmware(kubevirtv1.Firmware{UUID: "5d307ca9b3ef428c886106e72d69f223"}), "spec.domain.firmware.uuid"},
	"a kernel of no image":  {kernel(kubevirtv1.KernelBootContainer{KernelPath: "/k"}), "spec.domain.firmware.kernelBoot.container.image"},
	"a kernel of a URL":     {kernel(kubevirtv1.KernelBootContainer{Image: "http://x/y", KernelPath: "/k"}), "spec.domain.firmware.kernelBoot.container.image"},
	"an image of no kernel": {kernel(kubevirtv1.KernelBootContainer{Image: "i"}), "spec.domain.firmware.kernelBoot.container"},
	"a kernel elsewhere":    {kernel(kubevirtv1.KernelBootContainer{Image: "i", KernelPath: "../k"}), "spec.domain.firmware.kernelBoot.container.kernelPath"},
	"an initrd elsewhere":   {kernel(kubevirtv1.KernelBootContainer{Image: "i", InitrdPath: "/"}), "spec.domain.firmware.kernelBoot.container.initrdPath"},
	"paused with a probe": {func(s *spec) {
		s.StartStrategy, s.LivenessProbe = new(kubevirtv1.StartStrategyPaused), &kubevirtv1.Probe{Handler: ping}
	}, "spec.startStrategy"},
	"a probe of two kinds":   {ready(kubevirtv1.Handler{TCPSocket: tcp.TCPSocket, GuestAgentPing: ping.GuestAgentPing}), "spec.readinessProbe"},
	"a probe of no kind":     {func(s *spec) { s.LivenessProbe = &kubevirtv1.Probe{} }, "spec.livenessProbe"},
	"HTTP without a network": {withoutPods(ready(httpGet)), "spec.readinessProbe.httpGet"},

	"a negative memory request": {request(corev1.ResourceMemory, "-1Gi"), "spec.domain.resources.requests.memory"},
	"a negative memory limit":   {func(s *spec) { s.Domain.Resources.Limits[corev1.ResourceMemory] = resource.MustParse("-1Gi") }, "spec.domain.resources.limits.memory"},
	"a negative CPU request":    {request(corev1.ResourceCPU, "-1"), "spec.domain.resources.requests.cpu"},
	"a negative CPU limit":      {func(s *spec) { s.Domain.Resources.Limits[corev1.ResourceCPU] = resource.MustParse("-1") }, "spec.domain.resources.limits.cpu"},
	"a feature without a name":  {func(s *spec) { s.Domain.CPU.Features[0].Name = "" }, "spec.domain.cpu.features[0].name"},

	"a GPU without a name":       {devices(func(d *kubevirtv1.Devices) { d.GPUs = []kubevirtv1.GPU{{DeviceName: "a/b"}} }), "spec.domain.devices.gpus[0].name"},
	"a GPU of no kind":           {devices(func(d *kubevirtv1.Devices) { d.GPUs = []kubevirtv1.GPU{{Name: "g"}} }), "spec.domain.devices.gpus[0].deviceName"},
	"a GPU named like a device":  {devices(func(d *kubevirtv1.Devices) { d.GPUs = []kubevirtv1.GPU{{Name: "hd", DeviceName: "a/b"}} }), "spec.domain.devices.hostDevices[0].name"},
	"a GPU named like a disk":    {devices(func(d *kubevirtv1.Devices) { d.GPUs = []kubevirtv1.GPU{{Name: "root", DeviceName: "a/b"}} }), "spec.domain.devices.gpus[0].name"},
	"a device named like a disk": {devices(func(d *kubevirtv1.Devices) { d.HostDevices[0].Name = "root" }), "spec.domain.devices.hostDevices[0].name"},
	"an input named like a disk": {devices(func(d *kubevirtv1.Devices) { d.Inputs[0].Name = "root" }), "spec.domain.devices.inputs[0].name"},
	"a sound named like a disk":  {devices(func(d *kubevirtv1.Devices) { d.Sound.Name = "root" }), "spec.domain.devices.sound.name"},
	"a dog named like a disk":    {devices(func(d *kubevirtv1.Devices) { d.Watchdog = &kubevirtv1.Watchdog{Name: "root"} }), "spec.domain.devices.watchdog.name"},
	"a share named like a disk":  {devices(func(d *kubevirtv1.Devices) { d.Filesystems[0].Name = "root" }), "spec.domain.devices.filesystems[0].name"},
	"an input twice":             {devices(func(d *kubevirtv1.Devices) { d.Inputs = append(d.Inputs, d.Inputs[0]) }), "spec.domain.devices.inputs[1].name"},
	"an input of no such type":   {devices(func(d *kubevirtv1.Devices) { d.Inputs[0].Type = "mouse" }), "spec.domain.devices.inputs[0].type"},
	"a share twice":              {devices(func(d *kubevirtv1.Devices) { d.Filesystems = append(d.Filesystems, d.Filesystems[0]) }), "spec.domain.devices.filesystems[1].name"},
	"a share of no kind":         {devices(func(d *kubevirtv1.Devices) { d.Filesystems[0].Virtiofs = nil }), "spec.domain.devices.filesystems[0].virtiofs"},
	"sound without a name":       {devices(func(d *kubevirtv1.Devices) { d.Sound.Name = "" }), "spec.domain.devices.sound.name"},
	"video without graphics": {devices(func(d *kubevirtv1.Devices) {
		d.Video, d.AutoattachGraphicsDevice = &kubevirtv1.VideoDevice{Type: "vga"}, new(false)
	}), "spec.domain.devices.video"},
	"a panic device": {devices(func(d *kubevirtv1.Devices) {
		d.PanicDevices = []kubevirtv1.PanicDevice{{Model: new(kubevirtv1.PanicDeviceModel("x"))}}
	}), "spec.domain.devices.panicDevices[0].model"},
	"a persistent TPM that is on": {devices(func(d *kubevirtv1.Devices) { d.TPM = &kubevirtv1.TPMDevice{Enabled: new(true), Persistent: new(true)} }), "spec.domain.devices.tpm.persistent"},

	"read only on SATA":     {sata(func(d *kubevirtv1.Disk) { d.Disk.ReadOnly = true }), "spec.domain.devices.disks[0].disk.bus"},
	"a thread on SATA":      {sata(func(d *kubevirtv1.Disk) { d.DedicatedIOThread = new(true) }), "spec.domain.devices.disks[0].dedicatedIOThread"},
	"a PCI address on SATA": {sata(func(d *kubevirtv1.Disk) { d.Disk.PciAddress = "0000:05:00.0" }), "spec.domain.devices.disks[0].disk.pciAddress"},
	"large blocks on SATA": {sata(func(d *kubevirtv1.Disk) {
		d.BlockSize = &kubevirtv1.BlockSize{Custom: &kubevirtv1.CustomBlockSize{Logical: 4096, Physical: 4096}}
	}), "spec.domain.devices.disks[0].blockSize.custom.logical"},
	"blocks of two kinds":     {disk(func(d *kubevirtv1.Disk) { d.BlockSize.MatchVolume = &kubevirtv1.FeatureState{} }), "spec.domain.devices.disks[0].blockSize"},
	"blocks of two kinds, on": {disk(func(d *kubevirtv1.Disk) { d.BlockSize.MatchVolume = &kubevirtv1.FeatureState{Enabled: new(true)} }), "spec.domain.devices.disks[0].blockSize"},
	"an error policy":         {disk(func(d *kubevirtv1.Disk) { d.ErrorPolicy = new(kubevirtv1.DiskErrorPolicy("x")) }), "spec.domain.devices.disks[0].errorPolicy"},
	"a LUN on USB":            {devices(func(d *kubevirtv1.Devices) { d.Disks[2].LUN.Bus = "usb" }), "spec.domain.devices.disks[2].lun.bus"},
	"metrics on SATA": {func(s *spec) {
		sata(func(*kubevirtv1.Disk) {})(s)
		s.Volumes[0].VolumeSource = kubevirtv1.VolumeSource{DownwardMetrics: &kubevirtv1.DownwardMetricsVolumeSource{}}
	}, "spec.domain.devices.disks[0].disk.bus"},

	"two defaults of multus": {withoutPods(func(s *spec) {
		s.Networks[0].Multus.Default = true
		s.Networks = append(s.Networks, kubevirtv1.Network{Name: "red", NetworkSource: s.Networks[0].NetworkSource})
	}), "spec.networks"},
	"an interface twice": {func(s *spec) {
		s.Domain.Devices.Interfaces = append(s.Domain.Devices.Interfaces, kubevirtv1.Interface{Name: "blue", InterfaceBindingMethod: s.Domain.Devices.Interfaces[1].InterfaceBindingMethod})
	}, "spec.domain.devices.interfaces[2].name"},
	"slirp":             {nic(func(n *kubevirtv1.Interface) { n.DeprecatedSlirp = &kubevirtv1.DeprecatedInterfaceSlirp{} }), "spec.domain.devices.interfaces[0].slirp"},
	"slirp and another": {nic(func(n *kubevirtv1.Interface) { n.DeprecatedSlirp = &kubevirtv1.DeprecatedInterfaceSlirp{} }), "spec.domain.devices.interfaces[0]"},
	"macvtap":           {nic(func(n *kubevirtv1.Interface) { n.DeprecatedMacvtap = &kubevirtv1.DeprecatedInterfaceMacvtap{} }), "spec.domain.devices.interfaces[0].macvtap"},
	"state of a card":   {nic(func(n *kubevirtv1.Interface) { n.State = "x" }), "spec.domain.devices.interfaces[0].state"},
	"a long MAC":        {nic(func(n *kubevirtv1.Interface) { n.MacAddress = "02:00:00:00:00:00:00:01" }), "spec.domain.devices.interfaces[0].macAddress"},
	"a port's name":     {nic(func(n *kubevirtv1.Interface) { n.Ports[0].Name = "a name that is too long" }), "spec.domain.devices.interfaces[0].ports[0].name"},
	"a port's name twice": {nic(func(n *kubevirtv1.Interface) {
		n.Ports = append(n.Ports, kubevirtv1.Port{Name: "ssh", Port: 23})
	}), "spec.domain.devices.interfaces[0].ports[1].name"},
	"an option twice": {devices(func(d *kubevirtv1.Devices) {
		o := d.Interfaces[1].DHCPOptions
		o.PrivateOptions = append(o.PrivateOptions, o.PrivateOptions[0])
	}), "spec.domain.devices.interfaces[1].dhcpOptions.privateOptions[1].option"},
	"a time server of IPv6": {devices(func(d *kubevirtv1.Devices) { d.Interfaces[1].DHCPOptions.NTPServers[0] = "2001:db8::1" }), "spec.domain.devices.interfaces[1].dhcpOptions.ntpServers[0]"},

	"a pull policy":                {func(s *spec) { s.Volumes[0].ContainerDisk.ImagePullPolicy = "x" }, "spec.volumes[0].containerDisk.imagePullPolicy"},
	"a data volume without a name": {source(kubevirtv1.VolumeSource{DataVolume: &kubevirtv1.DataVolumeSource{}}), "spec.volumes[0].dataVolume.name"},
	"ephemeral of nothing":         {source(kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{}}), "spec.volumes[0].ephemeral.persistentVolumeClaim.claimName"},
	"ephemeral of no name": {source(kubevirtv1.VolumeSource{Ephemeral: &kubevirtv1.EphemeralVolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}),
		"spec.volumes[0].ephemeral.persistentVolumeClaim.claimName"},
	"a secret without a name":   {source(kubevirtv1.VolumeSource{Secret: &kubevirtv1.SecretVolumeSource{}}), "spec.volumes[0].secret.secretName"},
	"an account without a name": {source(kubevirtv1.VolumeSource{ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{}}), "spec.volumes[0].serviceAccount.serviceAccountName"},
	"sysprep of nothing":        {source(kubevirtv1.VolumeSource{Sysprep: &kubevirtv1.SysprepSource{}}), "spec.volumes[0].sysprep"},
	"sysprep of two": {source(kubevirtv1.VolumeSource{Sysprep: &kubevirtv1.SysprepSource{
		Secret: &corev1.LocalObjectReference{Name: "s"}, ConfigMap: &corev1.LocalObjectReference{Name: "s"}}}), "spec.volumes[0].sysprep"},
	"a host's file without a path": {source(kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Type: kubevirtv1.HostDiskExists}}), "spec.volumes[0].hostDisk.path"},
	"a host's file of no type":     {source(kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/d"}}), "spec.volumes[0].hostDisk.type"},
	"the size of a host's file": {source(kubevirtv1.VolumeSource{HostDisk: &kubevirtv1.HostDisk{Path: "/d", Type: kubevirtv1.HostDiskExists, Capacity: resource.MustParse("1Gi")}}),
		"spec.volumes[0].hostDisk.capacity"},
	"a path without a share": {source(kubevirtv1.VolumeSource{ContainerPath: &kubevirtv1.ContainerPathVolumeSource{Path: "/p"}}), "spec.volumes[0].name"},
	"two accounts": {func(s *spec) {
		s.Volumes[0].VolumeSource = kubevirtv1.VolumeSource{ServiceAccount: &kubevirtv1.ServiceAccountVolumeSource{ServiceAccountName: "s"}}
		s.Volumes[3].VolumeSource = s.Volumes[0].VolumeSource
	}, "spec.volumes"},
	"cloud-init of a large network": {noCloud(kubevirtv1.CloudInitNoCloudSource{UserData: "x", NetworkData: strings.Repeat("x", 2049)}), "spec.volumes[1].cloudInitNoCloud.networkData"},
	"cloud-init of large base64":    {noCloud(kubevirtv1.CloudInitNoCloudSource{UserDataBase64: strings.Repeat("AAAA", 683)}), "spec.volumes[1].cloudInitNoCloud.userData"},
	"cloud-init of a secret and data": {noCloud(kubevirtv1.CloudInitNoCloudSource{UserDataSecretRef: &corev1.LocalObjectReference{Name: "u"}, UserData: "x"}),
		"spec.volumes[1].cloudInitNoCloud.userData"},
	"a config drive of nothing": {func(s *spec) {
		s.Volumes[1].VolumeSource = kubevirtv1.VolumeSource{CloudInitConfigDrive: &kubevirtv1.CloudInitConfigDriveSource{}}
	}, "spec.volumes[1].cloudInitConfigDrive"},
}

func TestMoreFaults(t *testing.T) {
	for name, fault := range moreFaults {
		t.Run(name, func(t *testing.T) {
			vmi := instance(t)
			fault.edit(&vmi.Spec)
			SetNewInstance(defaults(), vmi, time.Now())
			if errs := ValidateInstance(defaults(), vmi); !reports(errs, fault.field) {
				t.Errorf("no error at %s, but %v", fault.field, errs.ToAggregate())
			}
		})
	}
}

// Who reads the error finds the value in the manifest, also where a default stands for it.
func TestFaultsNameTheValue(t *testing.T) {
	for name, edit := range map[string]func(*spec){
		"secureBoot: Invalid value: true":            efi(kubevirtv1.EFI{}),
		"dedicatedIOThread: Invalid value: true":     sata(func(d *kubevirtv1.Disk) { d.DedicatedIOThread = new(true) }),
		"isolateEmulatorThread: Invalid value: true": func(s *spec) { s.Domain.CPU.IsolateEmulatorThread = true },
	} {
		vmi := instance(t)
		edit(&vmi.Spec)
		SetNewInstance(defaults(), vmi, time.Now())
		if err := ValidateInstance(defaults(), vmi).ToAggregate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not say %s", err, name)
		}
	}
}

// A volume that no device shows is of no use; an instance that was never defaulted,
// such as one in a backup, is told so.
func TestVolumesNeedADevice(t *testing.T) {
	vmi := instance(t)
	SetNewInstance(defaults(), vmi, time.Now())
	vmi.Spec.Volumes = append(vmi.Spec.Volumes, kubevirtv1.Volume{Name: "loose", VolumeSource: kubevirtv1.VolumeSource{
		EmptyDisk: &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("1Gi")}}})
	if errs := ValidateInstance(defaults(), vmi); len(errs) != 1 || !reports(errs, "spec.volumes[4].name") {
		t.Errorf("got %v", errs.ToAggregate())
	}
}

func TestMigrationsElsewhereAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		edit  func(*kubevirtv1.VirtualMachineInstanceMigrationSpec)
		field string
	}{
		"sent": {func(s *kubevirtv1.VirtualMachineInstanceMigrationSpec) {
			s.SendTo = &kubevirtv1.VirtualMachineInstanceMigrationSource{}
		}, "spec"},
		"received": {func(s *kubevirtv1.VirtualMachineInstanceMigrationSpec) {
			s.Receive = &kubevirtv1.VirtualMachineInstanceMigrationTarget{}
		}, "spec"},
		"with order": {func(s *kubevirtv1.VirtualMachineInstanceMigrationSpec) {
			s.Priority = new(kubevirtv1.MigrationPriority)
		}, "spec.priority"},
	} {
		m := &kubevirtv1.VirtualMachineInstanceMigration{}
		m.Spec.VMIName = "vmi"
		c.edit(&m.Spec)
		if errs := ValidateMigration(m); len(errs) != 1 || !reports(errs, c.field) {
			t.Errorf("%s: %v", name, errs.ToAggregate())
		}
	}
}
