package domain

import (
	"libvirt.org/go/libvirtxml"
)

// statsSeconds is how often the guest's balloon driver reports its memory use.
const statsSeconds = 10

// balloon adds the balloon device, through which a guest reports its memory statistics
// and returns the memory it does not use. Memory that is pinned or in huge pages cannot
// be returned.
func balloon(c *conversion) {
	if !enabled(c.domain.Devices.AutoattachMemBalloon, true) {
		c.out.Devices.MemBalloon = &libvirtxml.DomainMemBalloon{Model: "none"}
		return
	}
	memory, cpu := c.domain.Memory, c.domain.CPU
	pinned := cpu != nil && (cpu.DedicatedCPUPlacement || cpu.Realtime != nil)
	huge := memory != nil && memory.Hugepages != nil
	c.out.Devices.MemBalloon = &libvirtxml.DomainMemBalloon{
		Model:             c.virtioModel(),
		FreePageReporting: onOff(!pinned && !huge),
		Stats:             &libvirtxml.DomainMemBalloonStats{Period: statsSeconds},
	}
}
