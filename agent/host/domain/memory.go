package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// memory gives the guest its memory, and its emulator a limit of what it may take.
func memory(c *conversion) {
	spec := c.domain.Memory
	path := c.root.Child("memory")
	bytes := machine.GuestMemory(&c.VMI.Spec)
	const smallest = 1 << 20
	if bytes < smallest {
		c.invalid(path.Child("guest"), bytes, "a guest needs memory: at least %d bytes", smallest)
		return
	}
	c.out.Memory = &libvirtxml.DomainMemory{Value: uint(bytes), Unit: "b"}
	const kib = 1 << 10
	limit := machine.MemoryLimit(&c.VMI.Spec, !c.Machine.KVM)
	c.out.MemoryTune = &libvirtxml.DomainMemoryTune{HardLimit: &libvirtxml.DomainMemoryTuneLimit{Value: uint64(limit / kib), Unit: "KiB"}}
	if spec == nil {
		memoryBacking(c, 0)
		return
	}
	pageSize, err := machine.PageSize(&c.VMI.Spec)
	if err != nil {
		c.invalid(path.Child("hugepages", "pageSize"), spec.Hugepages.PageSize, "must be a size, as 2Mi")
		return
	}
	if pageSize > 0 && bytes%pageSize != 0 {
		c.invalid(path.Child("guest"), bytes, "must be a multiple of the page size %s", spec.Hugepages.PageSize)
	}
	if spec.MaxGuest != nil {
		switch most := spec.MaxGuest.Value(); {
		case most < bytes:
			c.invalid(path.Child("maxGuest"), spec.MaxGuest.String(), "must not be less than guest")
		case most > bytes:
			hotpluggableMemory(c, uint(most), uint(bytes))
		}
	}
	memoryBacking(c, pageSize)
}

// hotpluggableMemory reserves address space for memory that is added while the guest
// runs. libvirt needs a NUMA node to add the memory to.
func hotpluggableMemory(c *conversion, most, start uint) {
	c.out.MaximumMemory = &libvirtxml.DomainMaxMemory{Value: most, Unit: "b", Slots: 16}
	last := c.topology().MaxVCPUs() - 1
	c.out.CPU.Numa = &libvirtxml.DomainNuma{Cell: []libvirtxml.DomainCell{{
		ID: ptr(uint(0)), CPUs: "0-" + itoa(last), Memory: start, Unit: "b",
	}}}
}

// memoryBacking selects where the guest's memory comes from. virtiofs needs to share it
// with another process; such memory is an anonymous file.
func memoryBacking(c *conversion, pageSize int64) {
	backing := &libvirtxml.DomainMemoryBacking{}
	shared := len(c.domain.Devices.Filesystems) > 0
	if pageSize > 0 {
		backing.MemoryHugePages = &libvirtxml.DomainMemoryHugepages{
			Hugepages: []libvirtxml.DomainMemoryHugepage{{Size: uint(pageSize), Unit: "b"}},
		}
	}
	if shared {
		backing.MemoryAccess = &libvirtxml.DomainMemoryAccess{Mode: "shared"}
	}
	if shared || (pageSize > 0 && c.VMI.Annotations[v1.MemfdMemoryBackend] != "false") {
		backing.MemorySource = &libvirtxml.DomainMemorySource{Type: "memfd"}
	}
	if s := c.domain.CPU; s != nil && s.Realtime != nil {
		backing.MemoryNosharepages = &libvirtxml.DomainMemoryNosharepages{}
		backing.MemoryLocked = &libvirtxml.DomainMemoryLocked{}
	}
	if *backing != (libvirtxml.DomainMemoryBacking{}) {
		c.out.MemoryBacking = backing
	}
}
