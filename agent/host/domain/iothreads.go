package domain

import (
	v1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// ioThreadPlan says which thread serves which disk. Threads are numbered from 1:
// shared ones first, then one for each disk that asks for its own.
type ioThreadPlan struct {
	count  int
	byDisk map[string]uint
}

// planIOThreads spreads the virtio disks of vmi over I/O threads, as its policy says:
// one thread for all (shared), up to two for each CPU (auto), or a pool of the given
// size. Without a policy only disks that ask for a thread of their own get one.
func planIOThreads(vmi *v1.VirtualMachineInstance) ioThreadPlan {
	spec := vmi.Spec.Domain
	var shared, dedicated []string
	for _, d := range spec.Devices.Disks {
		switch {
		case diskBus(d) != v1.DiskBusVirtio:
		case enabled(d.DedicatedIOThread, false):
			dedicated = append(dedicated, d.Name)
		default:
			shared = append(shared, d.Name)
		}
	}
	plan := ioThreadPlan{byDisk: map[string]uint{}}
	if spec.IOThreadsPolicy == nil && len(dedicated) == 0 {
		return plan
	}
	pool := sharedThreads(vmi, len(shared), len(dedicated))
	if spec.IOThreadsPolicy != nil && *spec.IOThreadsPolicy == v1.IOThreadsPolicySupplementalPool {
		shared, dedicated = append(shared, dedicated...), nil
	}
	for i, name := range shared {
		plan.byDisk[name] = uint(i%pool) + 1
	}
	for i, name := range dedicated {
		plan.byDisk[name] = uint(pool + i + 1)
	}
	plan.count = pool + len(dedicated)
	return plan
}

// sharedThreads is the number of threads for the disks that share them, at least one.
func sharedThreads(vmi *v1.VirtualMachineInstance, shared, dedicated int) int {
	spec := vmi.Spec.Domain
	if spec.IOThreadsPolicy == nil {
		return 1
	}
	switch *spec.IOThreadsPolicy {
	case v1.IOThreadsPolicySupplementalPool:
		if spec.IOThreads != nil && spec.IOThreads.SupplementalPoolThreadCount != nil {
			return max(1, int(*spec.IOThreads.SupplementalPoolThreadCount))
		}
		return 1
	case v1.IOThreadsPolicyAuto:
		const threadsPerCPU = 2
		limit := machine.TopologyOf(&vmi.Spec).VCPUs()*threadsPerCPU - dedicated
		return max(1, min(shared, limit))
	}
	return 1
}

// ioThreads declares the I/O threads that disks refer to.
func ioThreads(c *conversion) {
	if p := c.domain.IOThreadsPolicy; p != nil {
		switch *p {
		case v1.IOThreadsPolicyShared, v1.IOThreadsPolicyAuto:
		case v1.IOThreadsPolicySupplementalPool:
			if t := c.domain.IOThreads; t == nil || t.SupplementalPoolThreadCount == nil || *t.SupplementalPoolThreadCount < 1 {
				c.invalid(c.root.Child("ioThreads", "supplementalPoolThreadCount"), nil, "must be set with that policy")
			}
		default:
			c.invalid(c.root.Child("ioThreadsPolicy"), *p, "must be shared, auto or supplementalPool")
		}
	}
	c.out.IOThreads = uint(planIOThreads(c.VMI).count)
}
