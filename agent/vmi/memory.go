package vmi

import (
	"fmt"
	"math/bits"

	"k8s.io/apimachinery/pkg/api/resource"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

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
	// vfioExtra is for passed-through devices, which map their memory into the process.
	vfioExtra = gib
	// emulatorIOThreads covers the emulator's own threads.
	emulatorIOThreads = 8 * mib

	// overheadsAllowed is how often MemoryLimit has room for the overhead, and spare what it
	// adds to that: a migration, a screen with many clients, a burst of the disks.
	overheadsAllowed = 2
	spare            = gib
	// perDisk is room for the caches of a disk's image and of the images below it.
	perDisk = 64 * mib
	// translations is what an emulated processor keeps of the guest's code at most.
	translations = gib
)

// GuestMemory returns the bytes of memory that the guest starts with: memory.guest, or
// else its request, its limit, or one huge page, as in KubeVirt. It is 0 for a spec
// that names none of them; validation refuses such a spec.
func GuestMemory(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	if q := guestQuantity(spec); q != nil {
		return q.Value()
	}
	return 0
}

// guestQuantity is GuestMemory as the manifest spells it, nil if the manifest names
// none.
func guestQuantity(spec *kubevirtv1.VirtualMachineInstanceSpec) *resource.Quantity {
	mem, res := spec.Domain.Memory, spec.Domain.Resources
	switch {
	case mem != nil && mem.Guest != nil:
		return mem.Guest
	case !res.Requests.Memory().IsZero():
		return res.Requests.Memory()
	case !res.Limits.Memory().IsZero():
		return res.Limits.Memory()
	case mem != nil && mem.Hugepages != nil:
		if page, err := resource.ParseQuantity(mem.Hugepages.PageSize); err == nil {
			return &page
		}
	}
	return nil
}

// PageSize returns the size in bytes of the huge pages that hold the guest's
// memory, 0 if ordinary pages do. An error says what a page size looks like.
func PageSize(spec *kubevirtv1.VirtualMachineInstanceSpec) (int64, error) {
	mem := spec.Domain.Memory
	if mem == nil || mem.Hugepages == nil {
		return 0, nil
	}
	q, err := resource.ParseQuantity(mem.Hugepages.PageSize)
	if err != nil || q.Sign() <= 0 {
		return 0, fmt.Errorf("the page size is %q, want a positive quantity, such as 2Mi or 1Gi", mem.Hugepages.PageSize)
	}
	return q.Value(), nil
}

// PageName is the name of a page size of so many bytes, as Kubernetes writes it:
// "2Mi", "1Gi". It is the key of Resources.Hugepages.
func PageName(bytes int64) string { return resource.NewQuantity(bytes, resource.BinarySI).String() }

// Overhead returns the bytes of memory that QEMU needs beside the guest's.
func Overhead(spec *kubevirtv1.VirtualMachineInstanceSpec) int64 {
	d := &spec.Domain
	// The host needs page tables for the guest's memory.
	n := GuestMemory(spec)/512 + qemuBase + emulatorIOThreads
	n = sum(n, mulDiv(perVCPU, int64(TopologyOf(spec).VCPUs()), 1))
	if d.Devices.AutoattachGraphicsDevice == nil || *d.Devices.AutoattachGraphicsDevice {
		n = sum(n, perGraphics)
	}
	if passesDevices(d) {
		n = sum(n, vfioExtra)
	}
	if d.Memory != nil && d.Memory.ReservedOverhead != nil && d.Memory.ReservedOverhead.AddedOverhead != nil {
		n = sum(n, d.Memory.ReservedOverhead.AddedOverhead.Value())
	}
	return roundUp(n, kib)
}

// MemoryLimit returns the bytes of memory that QEMU and its helpers may have in all, that of
// the guest included. It is far more than they need (see Overhead): no guest that does
// nothing unusual may reach it, and an emulator that was broken into, or leaks, ends before
// the host has no memory left. Huge pages do not count in it, unless a device or real time
// has the guest's memory locked: libvirt locks no more than the limit. Nor does memory that
// can be added while the guest runs: whoever adds it raises the limit.
func MemoryLimit(spec *kubevirtv1.VirtualMachineInstanceSpec, emulated bool) int64 {
	d := &spec.Domain
	n := int64(spare)
	if page, err := PageSize(spec); err != nil || page == 0 || locksMemory(d) {
		n = sum(n, GuestMemory(spec))
	}
	n = sum(n, mulDiv(Overhead(spec), overheadsAllowed, 1))
	n = sum(n, mulDiv(perDisk, int64(len(d.Devices.Disks)), 1))
	if emulated {
		n = sum(n, translations)
	}
	return roundUp(n, mib)
}

// locksMemory reports whether the guest's memory stays in the host's for a device or for real
// time.
func locksMemory(d *kubevirtv1.DomainSpec) bool {
	return passesDevices(d) || d.CPU != nil && d.CPU.Realtime != nil
}

func passesDevices(d *kubevirtv1.DomainSpec) bool {
	return len(d.Devices.HostDevices) > 0 || len(d.Devices.GPUs) > 0 || hasSRIOV(d)
}

func hasSRIOV(d *kubevirtv1.DomainSpec) bool {
	for _, i := range d.Devices.Interfaces {
		if i.SRIOV != nil {
			return true
		}
	}
	return false
}

// mostOf is the largest amount that is counted, 2^60, which no host has. With this
// limit, sums of a few amounts never overflow, whatever a manifest asks for.
const mostOf = 1 << 60

// mulDiv returns a*b/c rounded up, at most mostOf, for numbers that are not
// negative and a positive c.
func mulDiv(a, b, c int64) int64 {
	high, low := bits.Mul64(uint64(max(a, 0)), uint64(max(b, 0)))
	low, carry := bits.Add64(low, uint64(c-1), 0)
	high += carry
	if high >= uint64(c) {
		return mostOf
	}
	q, _ := bits.Div64(high, low, uint64(c))
	return int64(min(q, mostOf))
}

// roundUp returns the least multiple of unit that is not below n, at most mostOf.
func roundUp(n, unit int64) int64 {
	n = min(n, mostOf)
	if rest := n % unit; rest > 0 {
		n = n - rest + unit // a unit above n is all that is left of the sum
	}
	return min(n, mostOf)
}

// sum adds numbers that are not negative, up to mostOf.
func sum(a, b int64) int64 { return min(min(a, mostOf)+min(max(b, 0), mostOf), mostOf) }
