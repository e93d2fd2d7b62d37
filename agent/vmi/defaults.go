package vmi

import (
	"runtime"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Defaults are the mesh-wide choices behind fields that a manifest leaves out.
type Defaults struct {
	// Architecture is the architecture of the hosts, as Go spells it.
	Architecture string
	// MachineType is the machine type of guests; empty means the architecture's
	// default.
	MachineType string
	// CPUModel is the CPU model of guests.
	CPUModel string
	// Interface is how a guest that names no network is bound to the pod network.
	Interface kubevirtv1.NetworkInterfaceType
	// EvictionStrategy is the strategy of guests that name none; nil leaves it unset.
	EvictionStrategy *kubevirtv1.EvictionStrategy
	// MaxHotplugRatio is how many times its sockets and memory a guest may grow to
	// while it runs, where the manifest does not say; 0 or 1 makes no room.
	MaxHotplugRatio uint32
}

// DefaultDefaults returns KubeVirt's own choices for the architecture of this
// host.
func DefaultDefaults() Defaults {
	return Defaults{
		Architecture: runtime.GOARCH,
		CPUModel:     kubevirtv1.DefaultCPUModel,
		Interface:    kubevirtv1.MasqueradeInterface,
		// The same ratio as in KubeVirt. Room to grow costs the host nothing until it
		// is used.
		MaxHotplugRatio: 4,
	}
}

// machineTypes are the machines of each architecture.
var machineTypes = map[string]string{"amd64": "q35", "arm64": "virt", "s390x": "s390-ccw-virtio"}

func (d Defaults) machineType(arch string) string {
	if d.MachineType != "" && arch == d.Architecture {
		return d.MachineType
	}
	return machineTypes[arch]
}

// DropUninferred removes an instance type or preference that is to be inferred from a
// volume and may be ignored if that fails. This version infers none. virtctl asks for
// inference by default.
func DropUninferred(spec *kubevirtv1.VirtualMachineSpec) {
	ignored := func(name, from string, policy *kubevirtv1.InferFromVolumeFailurePolicy) bool {
		return name == "" && from != "" && policy != nil && *policy == kubevirtv1.IgnoreInferFromVolumeFailure
	}
	if m := spec.Instancetype; m != nil && ignored(m.Name, m.InferFromVolume, m.InferFromVolumeFailurePolicy) {
		spec.Instancetype = nil
	}
	if m := spec.Preference; m != nil && ignored(m.Name, m.InferFromVolume, m.InferFromVolumeFailurePolicy) {
		spec.Preference = nil
	}
}

// SetTemplate fills in the defaults that KubeVirt stores in a VirtualMachine's
// template: the architecture and the machine type.
func (d Defaults) SetTemplate(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	if spec.Architecture == "" {
		spec.Architecture = d.Architecture
	}
	if spec.Domain.Machine == nil {
		spec.Domain.Machine = &kubevirtv1.Machine{}
	}
	if spec.Domain.Machine.Type == "" {
		spec.Domain.Machine.Type = d.machineType(spec.Architecture)
	}
}

// SetInstance fills in the spec of a VirtualMachineInstance, and the fields of its
// status that follow from the spec.
func (d Defaults) SetInstance(vmi *kubevirtv1.VirtualMachineInstance) {
	spec := &vmi.Spec
	d.setSpec(spec)
	SetIdentity(spec, vmi.Name)
	// These are KubeVirt's generated defaults for features, timers, devices and probes.
	// They would invent a firmware UUID if there were none.
	kubevirtv1.SetObjectDefaults_VirtualMachineInstance(vmi)
	setDiskBuses(spec)
	setWatchdog(spec)
	if spec.Domain.CPU.Model == "" {
		spec.Domain.CPU.Model = d.CPUModel
	}
	d.setHotplugRoom(spec)
	setStatus(vmi)
}

// setSpec fills in the defaults that do not depend on the instance's name.
func (d Defaults) setSpec(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	d.SetTemplate(spec)
	setRequests(spec)
	setGuestMemory(spec)
	setTopology(spec)
	setPullPolicies(spec)
	if spec.EvictionStrategy == nil && d.EvictionStrategy != nil {
		strategy := *d.EvictionStrategy
		spec.EvictionStrategy = &strategy
	}
	d.setNetwork(spec)
	setVolumeDisks(spec)
}

// setRequests uses the CPU limit as the request when there is no request.
func setRequests(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	res := &spec.Domain.Resources
	if res.Limits.Cpu().IsZero() || !res.Requests.Cpu().IsZero() {
		return
	}
	if res.Requests == nil {
		res.Requests = corev1.ResourceList{}
	}
	res.Requests[corev1.ResourceCPU] = res.Limits[corev1.ResourceCPU]
}

// setGuestMemory takes the guest's memory from the request, the limit, or one
// huge page.
func setGuestMemory(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	if spec.Domain.Memory == nil {
		spec.Domain.Memory = &kubevirtv1.Memory{}
	}
	if q := guestQuantity(spec); q != nil {
		guest := q.DeepCopy()
		spec.Domain.Memory.Guest = &guest
	}
}

// setTopology gives the guest a socket for each CPU that its resources ask for when the
// manifest has no topology, and fills in the missing parts of a topology when it has
// one.
func setTopology(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	if spec.Domain.CPU == nil {
		spec.Domain.CPU = &kubevirtv1.CPU{}
	}
	t := TopologyOf(spec)
	cpu := spec.Domain.CPU
	cpu.Sockets, cpu.Cores, cpu.Threads = uint32(t.Sockets), uint32(t.Cores), uint32(t.Threads)
}

// setPullPolicies sets the pull policy Always for images whose tag may move.
func setPullPolicies(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	for i := range spec.Volumes {
		disk := spec.Volumes[i].ContainerDisk
		if disk == nil || disk.ImagePullPolicy != "" {
			continue
		}
		disk.ImagePullPolicy = corev1.PullIfNotPresent
		if strings.HasSuffix(disk.Image, ":latest") || !strings.ContainsAny(disk.Image, ":@") {
			disk.ImagePullPolicy = corev1.PullAlways
		}
	}
}

// setNetwork attaches a guest that names no network to the pod network.
func (d Defaults) setNetwork(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	if auto := spec.Domain.Devices.AutoattachPodInterface; auto != nil && !*auto {
		return
	}
	if len(spec.Networks) != 0 || len(spec.Domain.Devices.Interfaces) != 0 {
		return
	}
	iface := kubevirtv1.DefaultMasqueradeNetworkInterface()
	if d.Interface == kubevirtv1.BridgeInterface {
		iface = kubevirtv1.DefaultBridgeNetworkInterface()
	}
	spec.Domain.Devices.Interfaces = []kubevirtv1.Interface{*iface}
	spec.Networks = []kubevirtv1.Network{*kubevirtv1.DefaultPodNetwork()}
}

// setVolumeDisks gives each volume without a device a disk. A memory dump gets none
// because the guest never sees it, and a volume that a filesystem uses has that device
// already.
func setVolumeDisks(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	has := map[string]bool{}
	for _, d := range spec.Domain.Devices.Disks {
		has[d.Name] = true
	}
	for _, f := range spec.Domain.Devices.Filesystems {
		has[f.Name] = true
	}
	for _, v := range spec.Volumes {
		if !has[v.Name] && v.MemoryDump == nil {
			spec.Domain.Devices.Disks = append(spec.Domain.Devices.Disks, kubevirtv1.Disk{Name: v.Name})
		}
	}
}

// Room to grow that the manifest does not ask for is limited: too much of it could keep
// a guest from starting.
const (
	// maxRoomMemory is half of what a processor with 40 address bits can address.
	// Emulated processors and many named models have 40.
	maxRoomMemory = 512 * gib
)

// setHotplugRoom sets how far the guest may grow without a restart.
func (d Defaults) setHotplugRoom(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	if d.MaxHotplugRatio <= 1 {
		return
	}
	cpu, mem := spec.Domain.CPU, spec.Domain.Memory
	if cpu.MaxSockets == 0 && !cpu.DedicatedCPUPlacement {
		t := TopologyOf(spec)
		room := min(product(t.Sockets, int(d.MaxHotplugRatio)), MaxVCPUsWithoutIOMMU/product(t.Cores, t.Threads))
		cpu.MaxSockets = uint32(max(t.Sockets, room))
	}
	if mem.MaxGuest == nil && mem.Guest != nil && memoryCanGrow(spec) {
		guest := mem.Guest.Value()
		if room := min(mulDiv(guest, int64(d.MaxHotplugRatio), 1), maxRoomMemory); room > guest {
			mem.MaxGuest = resource.NewQuantity(room, resource.BinarySI)
		}
	}
}

// memoryCanGrow is false for guests whose memory is fixed by how it is backed.
func memoryCanGrow(spec *kubevirtv1.VirtualMachineInstanceSpec) bool {
	const least, step = gib, 2 * mib
	cpu, guest := spec.Domain.CPU, spec.Domain.Memory.Guest.Value()
	return spec.Domain.Memory.Hugepages == nil && spec.Domain.LaunchSecurity == nil &&
		cpu.Realtime == nil && (cpu.NUMA == nil || cpu.NUMA.GuestMappingPassthrough == nil) &&
		guest >= least && guest%step == 0
}

func setStatus(vmi *kubevirtv1.VirtualMachineInstance) {
	if guest := vmi.Spec.Domain.Memory.Guest; guest != nil {
		boot, current, requested := guest.DeepCopy(), guest.DeepCopy(), guest.DeepCopy()
		vmi.Status.Memory = &kubevirtv1.MemoryStatus{GuestAtBoot: &boot, GuestCurrent: &current, GuestRequested: &requested}
	}
	if vmi.Status.CurrentCPUTopology == nil {
		cpu := vmi.Spec.Domain.CPU
		vmi.Status.CurrentCPUTopology = &kubevirtv1.CPUTopology{Sockets: cpu.Sockets, Cores: cpu.Cores, Threads: cpu.Threads}
	}
}
