package domain

import (
	k8sv1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// GuestMemory returns the bytes of memory vmi starts with: memory.guest, or else its
// request, or else its limit.
func GuestMemory(vmi *v1.VirtualMachineInstance) int64 {
	if m := vmi.Spec.Domain.Memory; m != nil && m.Guest != nil {
		return m.Guest.Value()
	}
	resources := vmi.Spec.Domain.Resources
	if request, ok := resources.Requests[k8sv1.ResourceMemory]; ok {
		return request.Value()
	}
	if limit, ok := resources.Limits[k8sv1.ResourceMemory]; ok {
		return limit.Value()
	}
	return 0
}

// memory gives the guest its memory.
func memory(c *conversion) {
	spec := c.domain.Memory
	path := c.root.Child("memory")
	bytes := GuestMemory(c.VMI)
	const smallest = 1 << 20
	if bytes < smallest {
		c.invalid(path.Child("guest"), bytes, "a guest needs memory: at least %d bytes", smallest)
		return
	}
	c.out.Memory = &libvirtxml.DomainMemory{Value: uint(bytes), Unit: "b"}
	if spec == nil {
		memoryBacking(c, 0)
		return
	}
	pageSize := int64(0)
	if h := spec.Hugepages; h != nil {
		q, err := resource.ParseQuantity(h.PageSize)
		if err != nil || q.Value() <= 0 {
			c.invalid(path.Child("hugepages", "pageSize"), h.PageSize, "must be a size, as 2Mi")
			return
		}
		if pageSize = q.Value(); bytes%pageSize != 0 {
			c.invalid(path.Child("guest"), bytes, "must be a multiple of the page size %s", h.PageSize)
		}
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

// hotpluggableMemory leaves address space for memory that is added later. libvirt
// needs a memory node to add it to.
func hotpluggableMemory(c *conversion, most, start uint) {
	c.out.MaximumMemory = &libvirtxml.DomainMaxMemory{Value: most, Unit: "b", Slots: 16}
	last := TopologyOf(c.VMI).MaxVCPUs() - 1
	c.out.CPU.Numa = &libvirtxml.DomainNuma{Cell: []libvirtxml.DomainCell{{
		ID: ptr(uint(0)), CPUs: "0-" + itoa(last), Memory: start, Unit: "b",
	}}}
}

// memoryBacking says where the memory comes from. Sharing it with another process, as
// virtiofs needs, goes through an anonymous file.
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
