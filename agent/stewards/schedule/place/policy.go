package place

import (
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// Strategy says which of the hosts that fit is best.
type Strategy string

const (
	// Balance prefers the host with the most left, so that load spreads.
	Balance Strategy = "balance"
	// Pack prefers the host with the least left, so that hosts stay empty.
	Pack Strategy = "pack"
)

// Policy is how far hosts may be committed, and what is preferred. It is the
// same on every host: the size of a claim follows from it.
type Policy struct {
	Strategy Strategy
	// CPUAllocationRatio is how many virtual CPUs share one of the host's,
	// unless the instance asks for dedicated ones or states its request.
	CPUAllocationRatio int64
	// MemoryOvercommitPercent is the guest memory promised for every 100 of
	// the host's. Overhead is never overcommitted.
	MemoryOvercommitPercent int64
	// AllowEmulation lets instances run on hosts where KVM does not work;
	// hosts where it does are preferred.
	AllowEmulation bool
	// SampleHosts is how many fitting hosts are compared, at most. Fewer are
	// faster; the best of 100 is close to the best of all.
	SampleHosts int
}

// DefaultPolicy returns what KubeVirt does by default: ten virtual CPUs to one
// of the host's, and no overcommitment of memory.
func DefaultPolicy() Policy {
	return Policy{
		Strategy:                Balance,
		CPUAllocationRatio:      10,
		MemoryOvercommitPercent: 100,
		AllowEmulation:          true,
		SampleHosts:             100,
	}
}

// Validate reports values that make no sense.
func (p Policy) Validate() error {
	var errs []error
	if p.Strategy != Balance && p.Strategy != Pack {
		errs = append(errs, fmt.Errorf("strategy is %q, want %q or %q", p.Strategy, Balance, Pack))
	}
	if p.CPUAllocationRatio < 1 {
		errs = append(errs, fmt.Errorf("cpuAllocationRatio is %d, want at least 1", p.CPUAllocationRatio))
	}
	if p.MemoryOvercommitPercent < 10 {
		errs = append(errs, fmt.Errorf("memoryOvercommitPercent is %d, want at least 10", p.MemoryOvercommitPercent))
	}
	if p.SampleHosts < 1 {
		errs = append(errs, fmt.Errorf("sampleHosts is %d, want at least 1", p.SampleHosts))
	}
	return errors.Join(errs...)
}

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	// qemuBase is what a QEMU process needs beside guest memory: code, heap,
	// block layer and network buffers.
	qemuBase = 96 * mib
	// perVCPU covers the stack and state of a virtual CPU's thread.
	perVCPU = 8 * mib
	// perGraphics is the memory of a graphics device.
	perGraphics = 16 * mib
	// vfioExtra: a passed-through device maps its memory into the process.
	vfioExtra = gib
	// emulatorIOThreads covers the emulator's own threads.
	emulatorIOThreads = 8 * mib
	// defaultGuestMemory is used when an instance states none.
	defaultGuestMemory = 128 * mib
)

// VCPUs returns the number of virtual CPUs of the instance.
func VCPUs(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	if c := spec.Domain.CPU; c != nil && (c.Sockets != 0 || c.Cores != 0 || c.Threads != 0) {
		return int64(max(1, c.Sockets)) * int64(max(1, c.Cores)) * int64(max(1, c.Threads))
	}
	for _, list := range []corev1.ResourceList{spec.Domain.Resources.Limits, spec.Domain.Resources.Requests} {
		if q, ok := list[corev1.ResourceCPU]; ok && q.Value() > 0 {
			return q.Value() // rounded up
		}
	}
	return 1
}

// GuestMemory returns the bytes of memory the guest sees.
func GuestMemory(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	if m := spec.Domain.Memory; m != nil && m.Guest != nil {
		return m.Guest.Value()
	}
	for _, list := range []corev1.ResourceList{spec.Domain.Resources.Requests, spec.Domain.Resources.Limits} {
		if q, ok := list[corev1.ResourceMemory]; ok {
			return q.Value()
		}
	}
	return defaultGuestMemory
}

// Overhead returns the memory QEMU needs beside the guest's.
func Overhead(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	d := &spec.Domain
	// Page tables of the host for the guest's memory.
	n := GuestMemory(spec)/512 + qemuBase + emulatorIOThreads + perVCPU*VCPUs(spec)
	if d.Devices.AutoattachGraphicsDevice == nil || *d.Devices.AutoattachGraphicsDevice {
		n += perGraphics
	}
	if len(d.Devices.HostDevices) > 0 || len(d.Devices.GPUs) > 0 || hasSRIOV(d) {
		n += vfioExtra
	}
	if d.Memory != nil && d.Memory.ReservedOverhead != nil && d.Memory.ReservedOverhead.AddedOverhead != nil {
		n += d.Memory.ReservedOverhead.AddedOverhead.Value()
	}
	return (n + kib - 1) / kib * kib
}

func hasSRIOV(d *kubevirtv1.DomainSpec) bool {
	for _, i := range d.Devices.Interfaces {
		if i.SRIOV != nil {
			return true
		}
	}
	return false
}

// Resources returns what the instance takes of its host.
func (p Policy) Resources(spec *kubevirtv1.VirtualMachineInstanceSpec) machine.Resources {
	d := &spec.Domain
	var r machine.Resources
	vcpus := VCPUs(spec)
	q, stated := d.Resources.Requests[corev1.ResourceCPU]
	switch {
	case d.CPU != nil && d.CPU.DedicatedCPUPlacement:
		r.CPUMilli = vcpus * 1000
		if d.CPU.IsolateEmulatorThread {
			r.CPUMilli += 1000
		}
	case stated:
		r.CPUMilli = q.MilliValue()
	default:
		r.CPUMilli = (vcpus*1000 + p.CPUAllocationRatio - 1) / p.CPUAllocationRatio
	}
	guest := GuestMemory(spec)
	overhead := Overhead(spec)
	if d.Resources.OvercommitGuestOverhead {
		overhead = 0
	}
	memory, statedMemory := d.Resources.Requests[corev1.ResourceMemory]
	switch {
	case d.Memory != nil && d.Memory.Hugepages != nil && d.Memory.Hugepages.PageSize != "":
		r.Hugepages = map[string]int64{d.Memory.Hugepages.PageSize: guest}
		r.MemoryBytes = overhead
	case statedMemory:
		r.MemoryBytes = memory.Value() + overhead
	default:
		r.MemoryBytes = guest*100/p.MemoryOvercommitPercent + overhead
	}
	for _, dev := range d.Devices.HostDevices {
		addDevice(&r, dev.DeviceName)
	}
	for _, dev := range d.Devices.GPUs {
		addDevice(&r, dev.DeviceName)
	}
	return r
}

func addDevice(r *machine.Resources, name string) {
	if name == "" {
		return
	}
	if r.Devices == nil {
		r.Devices = map[string]int64{}
	}
	r.Devices[name]++
}
