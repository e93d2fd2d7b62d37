package offer

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// Allocatable is what guests may use of a host: its capacity less reserved, the memory
// kept for the host itself, in bytes. disk is the size in bytes of the file system
// that holds the disks that end with their instance; a tenth of it is kept for the
// host.
func Allocatable(reserved, disk int64, capabilities hypervisor.Capabilities) machine.Resources {
	cpus := capabilities.CPUs
	if cpus == 0 {
		cpus = runtime.NumCPU()
	}
	memory := max(0, capabilities.MemoryBytes-reserved)
	hugepages := map[string]int64{}
	for _, node := range capabilities.NUMANodes {
		for kib, pages := range node.Hugepages {
			if pages > 0 && kib > normalPageKiB {
				bytes := pages * int64(kib) << 10
				hugepages[machine.PageName(int64(kib)<<10)] += bytes
				memory -= bytes
			}
		}
	}
	return machine.Resources{
		CPUMilli: int64(cpus) * 1000, MemoryBytes: max(0, memory), EphemeralBytes: disk - disk/10, Hugepages: hugepages,
	}
}

// normalPageKiB is the page size of memory that is not set aside.
const normalPageKiB = 4

// FileSystemBytes is the size of the file system that holds dir.
func FileSystemBytes(dir string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", dir, err)
	}
	return int64(stat.Blocks) * stat.Bsize, nil
}
