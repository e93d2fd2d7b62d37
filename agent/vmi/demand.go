package vmi

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Policy says how far hosts may be overcommitted. Every host has the same Policy,
// because the size of a claim follows from it.
type Policy struct {
	// CPUAllocationRatio is how many virtual CPUs share one host CPU, unless the
	// instance asks for dedicated CPUs.
	CPUAllocationRatio int64
	// MemoryOvercommitPercent is the guest memory that is promised, in percent of the
	// host's memory. The memory that QEMU needs for itself is never overcommitted.
	MemoryOvercommitPercent int64
	// ImageOverlayBytes is what counts for each image that the instance writes over, if the
	// instance does not request ephemeral-storage.
	ImageOverlayBytes int64
}

// DefaultPolicy returns KubeVirt's defaults: ten virtual CPUs for each host CPU, and no
// overcommitment of memory.
func DefaultPolicy() Policy { return Policy{CPUAllocationRatio: 10, MemoryOvercommitPercent: 100} }

// Validate reports values that make no sense, all at once.
func (p Policy) Validate() error {
	var errs []error
	if p.CPUAllocationRatio < 1 {
		errs = append(errs, fmt.Errorf("cpuAllocationRatio is %d, want at least 1", p.CPUAllocationRatio))
	}
	if p.MemoryOvercommitPercent < 10 {
		errs = append(errs, fmt.Errorf("memoryOvercommitPercent is %d, want at least 10", p.MemoryOvercommitPercent))
	}
	if p.ImageOverlayBytes < 0 {
		errs = append(errs, fmt.Errorf("imageOverlay is %d, want at least 0", p.ImageOverlayBytes))
	}
	return errors.Join(errs...)
}

// Resources returns what the instance takes of its host. A request raises that
// above what the policy charges for the guest's CPUs and memory, and never lowers
// it: what is charged is at least what is started. p must be valid.
func (p Policy) Resources(spec *kubevirtv1.VirtualMachineInstanceSpec) Resources {
	r := Resources{CPUMilli: p.cpu(spec), EphemeralBytes: p.ephemeral(spec)}
	guest, memory := GuestMemory(spec), int64(0)
	if page, err := PageSize(spec); err == nil && page > 0 {
		r.Hugepages = map[string]int64{PageName(page): roundUp(guest, page)}
	} else {
		memory = max(mulDiv(guest, 100, p.MemoryOvercommitPercent), min(spec.Domain.Resources.Requests.Memory().Value(), mostOf))
	}
	if !spec.Domain.Resources.OvercommitGuestOverhead {
		memory = sum(memory, Overhead(spec))
	}
	r.MemoryBytes = memory
	for _, d := range spec.Domain.Devices.HostDevices {
		r.addDevice(d.DeviceName)
	}
	for _, d := range spec.Domain.Devices.GPUs {
		r.addDevice(d.DeviceName)
	}
	return r
}

// cpu is the processor time that the instance takes, in thousandths of a CPU.
func (p Policy) cpu(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	vcpus := int64(TopologyOf(spec).VCPUs())
	if c := spec.Domain.CPU; c != nil && c.DedicatedCPUPlacement {
		if c.IsolateEmulatorThread {
			vcpus = sum(vcpus, 1)
		}
		return mulDiv(vcpus, 1000, 1)
	}
	request := spec.Domain.Resources.Requests[corev1.ResourceCPU]
	return max(mulDiv(vcpus, 1000, p.CPUAllocationRatio), MilliCPU(request))
}

// MilliCPU returns processor time in thousandths of a CPU, rounded up. A quantity too
// large for any host counts as 2^60: resource.Quantity's own conversion would return
// zero for it.
func MilliCPU(q resource.Quantity) int64 {
	if q.Value() > mostOf/1000 {
		return mostOf
	}
	return q.MilliValue()
}

func (r *Resources) addDevice(name string) {
	if name == "" {
		return // validation refuses it
	}
	if r.Devices == nil {
		r.Devices = map[string]int64{}
	}
	r.Devices[name]++
}

// EphemeralBytes returns the space on the host's own file system that is freed when the
// instance ends: the size of its empty disks or its request for ephemeral-storage,
// whichever is larger. What a guest will write over an image is not known in advance: it counts
// as the instance requests, or else as a Policy says.
func EphemeralBytes(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	var n int64
	for _, v := range spec.Volumes {
		if v.EmptyDisk != nil {
			n = sum(n, roundUp(v.EmptyDisk.Capacity.Value(), diskGranularity))
		}
	}
	request := spec.Domain.Resources.Requests[corev1.ResourceEphemeralStorage]
	return max(n, min(request.Value(), mostOf))
}

// ephemeral is EphemeralBytes with what the policy counts for overlays.
func (p Policy) ephemeral(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	n := EphemeralBytes(spec)
	if _, requested := spec.Domain.Resources.Requests[corev1.ResourceEphemeralStorage]; requested {
		return n
	}
	for i := range spec.Volumes {
		if v := &spec.Volumes[i]; v.ContainerDisk != nil && writable(spec, v.Name) {
			n = sum(n, roundUp(p.ImageOverlayBytes, diskGranularity))
		}
	}
	return n
}

// writable reports whether a guest can write to the disk of a volume.
func writable(spec *kubevirtv1.VirtualMachineInstanceSpec, volume string) bool {
	for _, d := range spec.Domain.Devices.Disks {
		if d.Name == volume {
			return d.CDRom == nil && (d.Disk == nil || !d.Disk.ReadOnly) && (d.LUN == nil || !d.LUN.ReadOnly)
		}
	}
	return false
}

// diskGranularity is the unit, in bytes, to which the sizes of disks are rounded up.
const diskGranularity = 4096
