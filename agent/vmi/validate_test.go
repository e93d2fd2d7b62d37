package vmi

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// goodInstance uses most of what can be checked.
const goodInstance = `
metadata: {name: vmi, namespace: default}
spec:
  hostname: guest
  subdomain: sub
  terminationGracePeriodSeconds: 0
  evictionStrategy: LiveMigrate
  readinessProbe: {tcpSocket: {port: 22}}
  domain:
    machine: {type: pc-q35-7.2}
    cpu: {cores: 2, features: [{name: apic, policy: require}]}
    memory: {guest: 128Mi}
    resources: {requests: {memory: 64Mi, cpu: 100m}, limits: {memory: 256Mi, cpu: 2}}
    firmware: {bootloader: {efi: {secureBoot: false}}}
    devices:
      disks:
      - {name: root, disk: {bus: virtio, pciAddress: "0000:05:00.0"}, bootOrder: 1, serial: S-1, cache: none, io: native, blockSize: {custom: {logical: 512, physical: 4096}}}
      - {name: seed, cdrom: {bus: sata}}
      - {name: data, lun: {bus: scsi}}
      interfaces:
      - {name: default, masquerade: {}, ports: [{name: ssh, port: 22, protocol: TCP}], bootOrder: 2, macAddress: "02:00:00:00:00:01", model: virtio}
      - {name: blue, bridge: {}, dhcpOptions: {ntpServers: [10.0.0.1], privateOptions: [{option: 240, value: x}]}}
      inputs: [{name: tablet, bus: virtio, type: tablet}]
      sound: {name: audio, model: ich9}
      filesystems: [{name: config, virtiofs: {}}]
      hostDevices: [{name: hd, deviceName: vendor/thing}]
  networks:
  - {name: default, pod: {}}
  - {name: blue, multus: {networkName: blue}}
  volumes:
  - {name: root, containerDisk: {image: registry/tiny:1, path: /disk/x.img}}
  - {name: seed, cloudInitNoCloud: {userData: "#cloud-config"}}
  - {name: data, persistentVolumeClaim: {claimName: data}}
  - {name: config, configMap: {name: c}}
`

func instance(t *testing.T) *kubevirtv1.VirtualMachineInstance {
	t.Helper()
	vmi := &kubevirtv1.VirtualMachineInstance{}
	if err := yaml.UnmarshalStrict([]byte(goodInstance), vmi); err != nil {
		t.Fatal(err)
	}
	return vmi
}

func defaults() Defaults {
	d := DefaultDefaults()
	d.Architecture = "amd64"
	return d
}

func TestGoodInstance(t *testing.T) {
	vmi := instance(t)
	SetNewInstance(defaults(), vmi, time.Now())
	if errs := ValidateInstance(defaults(), vmi); len(errs) > 0 {
		t.Errorf("a good instance is refused: %v", errs.ToAggregate())
	}
}

type spec = kubevirtv1.VirtualMachineInstanceSpec

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}

// faults are single faults in the good instance, and the field each is reported
// at.
var faults = map[string]struct {
	edit  func(*spec)
	field string
}{
	"hostname":              {func(s *spec) { s.Hostname = "Not A Name" }, "spec.hostname"},
	"subdomain":             {func(s *spec) { s.Subdomain = "-" }, "spec.subdomain"},
	"machine":               {func(s *spec) { s.Domain.Machine.Type = "pc" }, "spec.domain.machine.type"},
	"architecture":          {func(s *spec) { s.Architecture = "z80" }, "spec.architecture"},
	"efi and bios":          {func(s *spec) { s.Domain.Firmware.Bootloader.BIOS = &kubevirtv1.BIOS{} }, "spec.domain.firmware.bootloader"},
	"secure boot":           {func(s *spec) { s.Domain.Firmware.Bootloader.EFI.SecureBoot = nil }, "spec.domain.firmware.bootloader.efi.secureBoot"},
	"firmware uuid":         {func(s *spec) { s.Domain.Firmware.UUID = "1,serial=x" }, "spec.domain.firmware.uuid"},
	"persistent efi":        {func(s *spec) { s.Domain.Firmware.Bootloader.EFI.Persistent = new(true) }, "spec.domain.firmware.bootloader.efi.persistent"},
	"persistent tpm":        {func(s *spec) { s.Domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: new(true)} }, "spec.domain.devices.tpm.persistent"},
	"kernel args":           {func(s *spec) { s.Domain.Firmware.KernelBoot = &kubevirtv1.KernelBoot{KernelArgs: "x"} }, "spec.domain.firmware.kernelBoot.kernelArgs"},
	"start strategy":        {func(s *spec) { v := kubevirtv1.StartStrategy("x"); s.StartStrategy = &v }, "spec.startStrategy"},
	"eviction strategy":     {func(s *spec) { v := kubevirtv1.EvictionStrategy("x"); s.EvictionStrategy = &v }, "spec.evictionStrategy"},
	"grace period":          {func(s *spec) { v := int64(-1); s.TerminationGracePeriodSeconds = &v }, "spec.terminationGracePeriodSeconds"},
	"probe without handler": {func(s *spec) { s.ReadinessProbe.TCPSocket = nil }, "spec.readinessProbe"},
	"probe without network": {func(s *spec) {
		s.Networks, s.Domain.Devices.Interfaces = s.Networks[1:], s.Domain.Devices.Interfaces[1:]
	}, "spec.readinessProbe.tcpSocket"},

	"memory request":    {func(s *spec) { s.Domain.Resources.Requests[corev1.ResourceMemory] = resource.MustParse("64") }, "spec.domain.resources.requests.memory"},
	"memory limit":      {func(s *spec) { s.Domain.Resources.Requests[corev1.ResourceMemory] = resource.MustParse("1Gi") }, "spec.domain.resources.requests.memory"},
	"guest memory":      {func(s *spec) { s.Domain.Memory.Guest = quantity("1Gi") }, "spec.domain.memory.guest"},
	"maximum of memory": {func(s *spec) { s.Domain.Memory.MaxGuest = quantity("64Mi") }, "spec.domain.memory.guest"},
	"no memory": {func(s *spec) {
		s.Domain.Memory.Guest, s.Domain.Resources = nil, kubevirtv1.ResourceRequirements{}
	}, "spec.domain.memory.guest"},
	"huge page":          {func(s *spec) { s.Domain.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: "big"} }, "spec.domain.memory.hugepages.pageSize"},
	"huge page multiple": {func(s *spec) { s.Domain.Memory.Hugepages = &kubevirtv1.Hugepages{PageSize: "100Mi"} }, "spec.domain.memory.hugepages.pageSize"},
	"cpu request":        {func(s *spec) { s.Domain.Resources.Requests[corev1.ResourceCPU] = resource.MustParse("3") }, "spec.domain.resources.requests.cpu"},
	"cpu feature":        {func(s *spec) { s.Domain.CPU.Features[0].Policy = "x" }, "spec.domain.cpu.features[0].policy"},
	"sockets":            {func(s *spec) { s.Domain.CPU.Sockets, s.Domain.CPU.MaxSockets = 4, 2 }, "spec.domain.cpu.sockets"},
	"too many cpus":      {func(s *spec) { s.Domain.CPU.Sockets = 1 << 31 }, "spec.domain.cpu"},
	"emulator thread":    {func(s *spec) { s.Domain.CPU.IsolateEmulatorThread = true }, "spec.domain.cpu.isolateEmulatorThread"},
	"pinned fraction":    {func(s *spec) { s.Domain.CPU.DedicatedCPUPlacement = true }, "spec.domain.resources.requests.cpu"},

	"network without interface":    {func(s *spec) { s.Domain.Devices.Interfaces = s.Domain.Devices.Interfaces[:1] }, "spec.networks[1].name"},
	"interface without network":    {func(s *spec) { s.Networks = s.Networks[:1] }, "spec.domain.devices.interfaces[1].name"},
	"network twice":                {func(s *spec) { s.Networks[1].Name = "default" }, "spec.networks[1].name"},
	"two pod networks":             {func(s *spec) { s.Networks[1].Multus, s.Networks[1].Pod = nil, &kubevirtv1.PodNetwork{} }, "spec.networks"},
	"pod network beside a default": {func(s *spec) { s.Networks[1].Multus.Default = true }, "spec.networks"},
	"device twice": {func(s *spec) {
		s.Domain.Devices.HostDevices = append(s.Domain.Devices.HostDevices, s.Domain.Devices.HostDevices[0])
	}, "spec.domain.devices.hostDevices[1].name"},
	"network without type": {func(s *spec) { s.Networks[1].Multus = nil }, "spec.networks[1]"},
	"network of two types": {func(s *spec) { s.Networks[1].Pod = &kubevirtv1.PodNetwork{} }, "spec.networks[1]"},
	"multus without name":  {func(s *spec) { s.Networks[1].Multus.NetworkName = "" }, "spec.networks[1].multus.networkName"},
	"interface name":       {func(s *spec) { s.Domain.Devices.Interfaces[0].Name = "a b" }, "spec.domain.devices.interfaces[0].name"},
	"no binding":           {func(s *spec) { s.Domain.Devices.Interfaces[0].Masquerade = nil }, "spec.domain.devices.interfaces[0]"},
	"two bindings":         {func(s *spec) { s.Domain.Devices.Interfaces[0].Bridge = &kubevirtv1.InterfaceBridge{} }, "spec.domain.devices.interfaces[0]"},
	"masquerade on multus": {func(s *spec) {
		i := &s.Domain.Devices.Interfaces[1]
		i.Bridge, i.Masquerade = nil, &kubevirtv1.InterfaceMasquerade{}
	}, "spec.domain.devices.interfaces[1].masquerade"},
	"model":         {func(s *spec) { s.Domain.Devices.Interfaces[0].Model = "x" }, "spec.domain.devices.interfaces[0].model"},
	"mac":           {func(s *spec) { s.Domain.Devices.Interfaces[0].MacAddress = "x" }, "spec.domain.devices.interfaces[0].macAddress"},
	"multicast mac": {func(s *spec) { s.Domain.Devices.Interfaces[0].MacAddress = "01:00:00:00:00:01" }, "spec.domain.devices.interfaces[0].macAddress"},
	"mac twice":     {func(s *spec) { s.Domain.Devices.Interfaces[1].MacAddress = "02-00-00-00-00-01" }, "spec.domain.devices.interfaces[1].macAddress"},
	"nic pci":       {func(s *spec) { s.Domain.Devices.Interfaces[0].PciAddress = "x" }, "spec.domain.devices.interfaces[0].pciAddress"},
	"port":          {func(s *spec) { s.Domain.Devices.Interfaces[0].Ports[0].Port = 0 }, "spec.domain.devices.interfaces[0].ports[0].port"},
	"port protocol": {func(s *spec) { s.Domain.Devices.Interfaces[0].Ports[0].Protocol = "SCTP" }, "spec.domain.devices.interfaces[0].ports[0].protocol"},
	"dhcp option":   {func(s *spec) { s.Domain.Devices.Interfaces[1].DHCPOptions.PrivateOptions[0].Option = 1 }, "spec.domain.devices.interfaces[1].dhcpOptions.privateOptions[0].option"},
	"ntp server":    {func(s *spec) { s.Domain.Devices.Interfaces[1].DHCPOptions.NTPServers[0] = "x" }, "spec.domain.devices.interfaces[1].dhcpOptions.ntpServers[0]"},

	"disk without volume": {func(s *spec) { s.Domain.Devices.Disks[0].Name = "other" }, "spec.domain.devices.disks[0].name"},
	"disk twice":          {func(s *spec) { s.Domain.Devices.Disks[1].Name = "root" }, "spec.domain.devices.disks[1].name"},
	"two targets":         {func(s *spec) { s.Domain.Devices.Disks[0].CDRom = &kubevirtv1.CDRomTarget{} }, "spec.domain.devices.disks[0]"},
	"lun on image":        {func(s *spec) { s.Domain.Devices.Disks[2].Name = "root" }, "spec.domain.devices.disks[2].lun"},
	"bus":                 {func(s *spec) { s.Domain.Devices.Disks[0].Disk.Bus = "ide" }, "spec.domain.devices.disks[0].disk.bus"},
	"virtio cdrom":        {func(s *spec) { s.Domain.Devices.Disks[1].CDRom.Bus = "virtio" }, "spec.domain.devices.disks[1].cdrom.bus"},
	"disk pci":            {func(s *spec) { s.Domain.Devices.Disks[0].Disk.PciAddress = "x" }, "spec.domain.devices.disks[0].disk.pciAddress"},
	"serial":              {func(s *spec) { s.Domain.Devices.Disks[0].Serial = "a b" }, "spec.domain.devices.disks[0].serial"},
	"cache":               {func(s *spec) { s.Domain.Devices.Disks[0].Cache = "x" }, "spec.domain.devices.disks[0].cache"},
	"io":                  {func(s *spec) { s.Domain.Devices.Disks[0].IO = "x" }, "spec.domain.devices.disks[0].io"},
	"block size":          {func(s *spec) { s.Domain.Devices.Disks[0].BlockSize.Custom.Logical = 1000 }, "spec.domain.devices.disks[0].blockSize.custom.logical"},
	"boot order zero":     {func(s *spec) { *s.Domain.Devices.Disks[0].BootOrder = 0 }, "spec.domain.devices.disks[0].bootOrder"},
	"boot order twice":    {func(s *spec) { *s.Domain.Devices.Interfaces[0].BootOrder = 1 }, "spec.domain.devices.interfaces[0].bootOrder"},

	"volume twice":        {func(s *spec) { s.Volumes[1].Name = "root" }, "spec.volumes[1].name"},
	"volume without name": {func(s *spec) { s.Volumes[0].Name = "" }, "spec.volumes[0].name"},
	"no source":           {func(s *spec) { s.Volumes[0].ContainerDisk = nil }, "spec.volumes[0]"},
	"two sources": {func(s *spec) {
		s.Volumes[0].EmptyDisk = &kubevirtv1.EmptyDiskSource{Capacity: resource.MustParse("1Gi")}
	}, "spec.volumes[0]"},
	"image":                {func(s *spec) { s.Volumes[0].ContainerDisk.Image = "" }, "spec.volumes[0].containerDisk.image"},
	"image of a URL":       {func(s *spec) { s.Volumes[0].ContainerDisk.Image = "http://x y" }, "spec.volumes[0].containerDisk.image"},
	"image of two tags":    {func(s *spec) { s.Volumes[0].ContainerDisk.Image = "foo:bar:baz" }, "spec.volumes[0].containerDisk.image"},
	"image path":           {func(s *spec) { s.Volumes[0].ContainerDisk.Path = "/disk/../../etc/passwd" }, "spec.volumes[0].containerDisk.path"},
	"claim":                {func(s *spec) { s.Volumes[2].PersistentVolumeClaim.ClaimName = "" }, "spec.volumes[2].persistentVolumeClaim.claimName"},
	"config map":           {func(s *spec) { s.Volumes[3].ConfigMap.Name = "" }, "spec.volumes[3].configMap.name"},
	"cloud-init empty":     {func(s *spec) { s.Volumes[1].CloudInitNoCloud.UserData = "" }, "spec.volumes[1].cloudInitNoCloud"},
	"cloud-init too large": {func(s *spec) { s.Volumes[1].CloudInitNoCloud.UserData = strings.Repeat("x", 2049) }, "spec.volumes[1].cloudInitNoCloud.userData"},
	"cloud-init base64":    {func(s *spec) { c := s.Volumes[1].CloudInitNoCloud; c.UserData, c.UserDataBase64 = "", "!" }, "spec.volumes[1].cloudInitNoCloud.userDataBase64"},
	"cloud-init two":       {func(s *spec) { s.Volumes[1].CloudInitNoCloud.UserDataBase64 = "eA==" }, "spec.volumes[1].cloudInitNoCloud.userData"},

	"input bus":         {func(s *spec) { s.Domain.Devices.Inputs[0].Bus = "ps2" }, "spec.domain.devices.inputs[0].bus"},
	"sound":             {func(s *spec) { s.Domain.Devices.Sound.Model = "x" }, "spec.domain.devices.sound.model"},
	"filesystem volume": {func(s *spec) { s.Domain.Devices.Filesystems[0].Name = "x" }, "spec.domain.devices.filesystems[0].name"},
	"host device":       {func(s *spec) { s.Domain.Devices.HostDevices[0].DeviceName = "" }, "spec.domain.devices.hostDevices[0].deviceName"},
	"tiny guest":        {func(s *spec) { q := resource.MustParse("1M"); s.Domain.Memory.Guest = &q }, "spec.domain.memory.guest"},
	"one claim in two volumes": {func(s *spec) {
		s.Volumes[0].ContainerDisk, s.Volumes[0].PersistentVolumeClaim = nil, s.Volumes[2].PersistentVolumeClaim.DeepCopy()
	}, "spec.volumes[2].persistentVolumeClaim.claimName"},
	"a data volume and its claim": {func(s *spec) {
		s.Volumes[0].ContainerDisk, s.Volumes[0].DataVolume = nil, &kubevirtv1.DataVolumeSource{Name: "data"}
	}, "spec.volumes[2].persistentVolumeClaim.claimName"},
	"an ephemeral volume on a claim in use": {func(s *spec) {
		s.Volumes[0].ContainerDisk, s.Volumes[0].Ephemeral = nil, &kubevirtv1.EphemeralVolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}
	}, "spec.volumes[2].persistentVolumeClaim.claimName"},
	"memory dump on a claim in use": {func(s *spec) {
		v := kubevirtv1.Volume{Name: "dump", VolumeSource: kubevirtv1.VolumeSource{MemoryDump: &kubevirtv1.MemoryDumpVolumeSource{}}}
		v.MemoryDump.ClaimName = "data"
		s.Volumes = append(s.Volumes, v)
	}, "spec.volumes[4].memoryDump.claimName"},
	"a disk named like an interface": {func(s *spec) { s.Domain.Devices.Interfaces[1].Name, s.Networks[1].Name = "root", "root" }, "spec.domain.devices.interfaces[1].name"},
	"two clocks": {func(s *spec) {
		zone := kubevirtv1.ClockOffsetTimezone("UTC")
		s.Domain.Clock = &kubevirtv1.Clock{ClockOffset: kubevirtv1.ClockOffset{UTC: &kubevirtv1.ClockOffsetUTC{}, Timezone: &zone}}
	}, "spec.domain.clock"},
	"no such time zone":     {timezone("Mars/Base"), "spec.domain.clock.timezone"},
	"a path as a time zone": {timezone("../../etc/passwd"), "spec.domain.clock.timezone"},
	"the host's time zone":  {timezone("Local"), "spec.domain.clock.timezone"},
	"rtc policy":            {timers(kubevirtv1.Timer{RTC: &kubevirtv1.RTCTimer{TickPolicy: "x"}}), "spec.domain.clock.timer.rtc.tickPolicy"},
	"rtc track":             {timers(kubevirtv1.Timer{RTC: &kubevirtv1.RTCTimer{Track: "x"}}), "spec.domain.clock.timer.rtc.track"},
	"pit policy":            {timers(kubevirtv1.Timer{PIT: &kubevirtv1.PITTimer{TickPolicy: "x"}}), "spec.domain.clock.timer.pit.tickPolicy"},
	"hpet policy":           {timers(kubevirtv1.Timer{HPET: &kubevirtv1.HPETTimer{TickPolicy: "x"}}), "spec.domain.clock.timer.hpet.tickPolicy"},
	"reboot policy":         {func(s *spec) { p := kubevirtv1.RebootPolicy("x"); s.Domain.RebootPolicy = &p }, "spec.domain.rebootPolicy"},
	"io threads":            {func(s *spec) { p := kubevirtv1.IOThreadsPolicy("x"); s.Domain.IOThreadsPolicy = &p }, "spec.domain.ioThreadsPolicy"},
	"pool of no threads":    {func(s *spec) { p := kubevirtv1.IOThreadsPolicySupplementalPool; s.Domain.IOThreadsPolicy = &p }, "spec.domain.ioThreads.supplementalPoolThreadCount"},
	"usb redirection":       {func(s *spec) { s.Domain.Devices.ClientPassthrough = &kubevirtv1.ClientPassthroughDevices{} }, "spec.domain.devices.clientPassthrough"},
	"host metrics":          {func(s *spec) { s.Domain.Devices.DownwardMetrics = &kubevirtv1.DownwardMetrics{} }, "spec.domain.devices.downwardMetrics"},
	"encrypted memory":      {func(s *spec) { s.Domain.LaunchSecurity = &kubevirtv1.LaunchSecurity{} }, "spec.domain.launchSecurity"},
	"acpi table":            {func(s *spec) { s.Domain.Firmware.ACPI = &kubevirtv1.ACPI{} }, "spec.domain.firmware.acpi"},
	"numa": {func(s *spec) {
		s.Domain.CPU.NUMA = &kubevirtv1.NUMA{GuestMappingPassthrough: &kubevirtv1.NUMAGuestMappingPassthrough{}}
	}, "spec.domain.cpu.numa.guestMappingPassthrough"},
	"watchdog of another machine": {func(s *spec) {
		s.Domain.Devices.Watchdog = &kubevirtv1.Watchdog{WatchdogDevice: kubevirtv1.WatchdogDevice{Diag288: &kubevirtv1.Diag288Watchdog{}}}
	}, "spec.domain.devices.watchdog.diag288"},
	"watchdog action": {func(s *spec) {
		s.Domain.Devices.Watchdog = &kubevirtv1.Watchdog{WatchdogDevice: kubevirtv1.WatchdogDevice{I6300ESB: &kubevirtv1.I6300ESBWatchdog{Action: "x"}}}
	}, "spec.domain.devices.watchdog.i6300esb.action"},
	"video":       {func(s *spec) { s.Domain.Devices.Video = &kubevirtv1.VideoDevice{Type: "x"} }, "spec.domain.devices.video.type"},
	"reservation": {func(s *spec) { s.Domain.Devices.Disks[2].LUN.Reservation = true }, "spec.domain.devices.disks[2].lun.reservation"},
	"lun on sata": {func(s *spec) { s.Domain.Devices.Disks[2].LUN.Bus = "sata" }, "spec.domain.devices.disks[2].lun.bus"},
	"tray":        {func(s *spec) { s.Domain.Devices.Disks[1].CDRom.Tray = "x" }, "spec.domain.devices.disks[1].cdrom.tray"},
	"shared and cached": {func(s *spec) {
		yes := true
		s.Domain.Devices.Disks[2].Shareable, s.Domain.Devices.Disks[2].Cache = &yes, "writeback"
	}, "spec.domain.devices.disks[2].cache"},
	"native and cached": {func(s *spec) { s.Domain.Devices.Disks[0].Cache = "writethrough" }, "spec.domain.devices.disks[0].io"},
}

func timezone(name string) func(*spec) {
	return func(s *spec) {
		zone := kubevirtv1.ClockOffsetTimezone(name)
		s.Domain.Clock = &kubevirtv1.Clock{ClockOffset: kubevirtv1.ClockOffset{Timezone: &zone}}
	}
}

func timers(t kubevirtv1.Timer) func(*spec) {
	return func(s *spec) { s.Domain.Clock = &kubevirtv1.Clock{Timer: &t} }
}

func TestFaults(t *testing.T) {
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			vmi := instance(t)
			fault.edit(&vmi.Spec)
			SetNewInstance(defaults(), vmi, time.Now())
			errs := ValidateInstance(defaults(), vmi)
			if !reports(errs, fault.field) {
				t.Errorf("no error at %s, but %v", fault.field, errs.ToAggregate())
			}
		})
	}
}

func reports(errs field.ErrorList, path string) bool {
	for _, e := range errs {
		if e.Field == path {
			return true
		}
	}
	return false
}

func machine(t *testing.T) *kubevirtv1.VirtualMachine {
	t.Helper()
	vmi := instance(t)
	always := kubevirtv1.RunStrategyAlways
	vm := &kubevirtv1.VirtualMachine{}
	vm.Name = "vm"
	vm.Spec.RunStrategy = &always
	vm.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{Spec: vmi.Spec}
	return vm
}

func TestVirtualMachine(t *testing.T) {
	yes := true
	for name, c := range map[string]struct {
		edit  func(*kubevirtv1.VirtualMachine)
		field string
	}{
		"good": {func(*kubevirtv1.VirtualMachine) {}, ""},
		"kept state": {func(vm *kubevirtv1.VirtualMachine) {
			domain := &vm.Spec.Template.Spec.Domain
			domain.Firmware.Bootloader.EFI.Persistent, domain.Devices.TPM = &yes, &kubevirtv1.TPMDevice{Persistent: &yes}
		}, ""},
		"running":  {func(vm *kubevirtv1.VirtualMachine) { vm.Spec.RunStrategy, vm.Spec.Running = nil, &yes }, ""},
		"both":     {func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Running = &yes }, "spec.running"},
		"neither":  {func(vm *kubevirtv1.VirtualMachine) { vm.Spec.RunStrategy = nil }, "spec.runStrategy"},
		"unknown":  {func(vm *kubevirtv1.VirtualMachine) { *vm.Spec.RunStrategy = "x" }, "spec.runStrategy"},
		"template": {func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template = nil }, "spec.template"},
		"in template": {func(vm *kubevirtv1.VirtualMachine) { vm.Spec.Template.Spec.Networks = nil },
			"spec.template.spec.domain.devices.interfaces[0].name"},
		"label": {func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Template.ObjectMeta.Labels = map[string]string{kubevirtv1.NodeNameLabel: "x"}
		}, "spec.template.metadata.labels[kubevirt.io/nodeName]"},
		"instance type": {func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Instancetype = &kubevirtv1.InstancetypeMatcher{Name: "u1.small"}
		}, "spec.instancetype"},
		"preference": {func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.Preference = &kubevirtv1.PreferenceMatcher{Name: "debian"}
		}, "spec.preference"},
		"data volume": {func(vm *kubevirtv1.VirtualMachine) {
			vm.Spec.DataVolumeTemplates = []kubevirtv1.DataVolumeTemplateSpec{{ObjectMeta: metav1.ObjectMeta{Name: "dv"}}}
		}, "spec.dataVolumeTemplates[0].metadata.name"},
	} {
		t.Run(name, func(t *testing.T) {
			vm := machine(t)
			c.edit(vm)
			errs := ValidateVirtualMachine(defaults(), vm)
			if c.field == "" && len(errs) > 0 {
				t.Errorf("refused: %v", errs.ToAggregate())
			}
			if c.field != "" && !reports(errs, c.field) {
				t.Errorf("no error at %s, but %v", c.field, errs.ToAggregate())
			}
		})
	}
}

func TestInstanceUpdate(t *testing.T) {
	old := instance(t)
	vmi := old.DeepCopy()
	vmi.Annotations = map[string]string{"a": "b"}
	if errs := ValidateInstanceUpdate(vmi, old); len(errs) > 0 {
		t.Errorf("a new annotation is refused: %v", errs.ToAggregate())
	}
	vmi.Labels = map[string]string{kubevirtv1.NodeNameLabel: "other"}
	vmi.Spec.Hostname = "other"
	errs := ValidateInstanceUpdate(vmi, old)
	if !reports(errs, "spec") || !reports(errs, "metadata.labels[kubevirt.io/nodeName]") {
		t.Errorf("a changed spec and reserved label are let through: %v", errs.ToAggregate())
	}
}

func TestMigration(t *testing.T) {
	m := &kubevirtv1.VirtualMachineInstanceMigration{}
	if !reports(ValidateMigration(m), "spec.vmiName") {
		t.Error("a migration of nothing is let through")
	}
	m.Spec.VMIName = "vmi"
	SetNewMigration(m)
	if errs := ValidateMigration(m); len(errs) > 0 {
		t.Errorf("refused: %v", errs.ToAggregate())
	}
	if !m.IsFinal() || m.Status.MigrationState.FailureReason == "" {
		t.Errorf("somebody waits for it: %+v", m.Status)
	}
	m.Status.Phase = kubevirtv1.MigrationRunning
	other := m.DeepCopy()
	other.Spec.VMIName = "other"
	other.Labels[kubevirtv1.MigrationSelectorLabel] = "other"
	errs := ValidateMigrationUpdate(other, m)
	if !reports(errs, "spec") || !reports(errs, "metadata.labels[kubevirt.io/vmi-name]") {
		t.Errorf("a changed migration is let through: %v", errs.ToAggregate())
	}
}
