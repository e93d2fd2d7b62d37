package offer

import (
	"fmt"
	"runtime"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// Allocatable is what guests may use of a host: what it has, less the memory
// that is reserved for the host itself, in bytes.
func Allocatable(reserved int64, capabilities hypervisor.Capabilities) machine.Resources {
	cpus := capabilities.CPUs
	if cpus == 0 {
		cpus = runtime.NumCPU()
	}
	memory := max(0, capabilities.MemoryBytes-reserved)
	hugepages := map[string]int64{}
	for _, node := range capabilities.NUMANodes {
		for kib, pages := range node.Hugepages {
			if pages > 0 && kib > normalPageKiB {
				hugepages[pageSizeName(kib)] += pages
				memory -= pages * int64(kib) << 10
			}
		}
	}
	return machine.Resources{CPUMilli: int64(cpus) * 1000, MemoryBytes: max(0, memory), Hugepages: hugepages}
}

// normalPageKiB is the page size of memory that is not set aside.
const normalPageKiB = 4

// pageSizeName is how Kubernetes writes a page size.
func pageSizeName(kib uint64) string {
	if kib >= 1<<20 {
		return fmt.Sprintf("%dGi", kib>>20)
	}
	return fmt.Sprintf("%dMi", kib>>10)
}
