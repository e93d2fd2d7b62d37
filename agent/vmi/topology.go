package vmi

import (
	"math"
	"math/bits"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// MaxVCPUsWithoutIOMMU is the most CPUs of a guest whose machine has no IOMMU to remap
// interrupts. Guests of virtmesh have no IOMMU, so no guest can have more.
const MaxVCPUsWithoutIOMMU = 255

// Topology is the shape of a guest's CPUs.
type Topology struct {
	Sockets, Cores, Threads int
	// MaxSockets is Sockets, or more when CPUs can be added while the guest runs.
	MaxSockets int
}

// VCPUs is the number of CPUs that the guest starts with.
func (t Topology) VCPUs() int { return product(t.Sockets, t.Cores, t.Threads) }

// MaxVCPUs is the number of CPUs that the guest can have without a restart.
func (t Topology) MaxVCPUs() int { return product(t.MaxSockets, t.Cores, t.Threads) }

// WithinLimit returns t with MaxSockets reduced so that the guest cannot grow beyond
// limit CPUs, the most that its host allows a guest. MaxSockets does not become less
// than Sockets. A limit of zero or less means that there is no limit.
func (t Topology) WithinLimit(limit int) Topology {
	if limit > 0 {
		t.MaxSockets = max(t.Sockets, min(t.MaxSockets, limit/product(t.Cores, t.Threads)))
	}
	return t
}

// TopologyOf returns the topology that spec asks for, with at least one of
// each part. Where it names no part, the guest has a socket for each CPU of its
// limit or else of its request, rounded up, as in KubeVirt.
func TopologyOf(spec *kubevirtv1.VirtualMachineInstanceSpec) Topology {
	t := Topology{Sockets: 1, Cores: 1, Threads: 1}
	cpu := spec.Domain.CPU
	if cpu != nil {
		t.Sockets, t.Cores, t.Threads = int(max(cpu.Sockets, 1)), int(max(cpu.Cores, 1)), int(max(cpu.Threads, 1))
	}
	if cpu == nil || cpu.Cores == 0 && cpu.Sockets == 0 && cpu.Threads == 0 {
		t.Sockets = socketsOf(spec.Domain.Resources)
	}
	t.MaxSockets = t.Sockets
	if cpu != nil {
		t.MaxSockets = max(t.Sockets, int(cpu.MaxSockets))
	}
	return t
}

// socketsOf is the number of sockets of a guest that has resources and no topology.
func socketsOf(res kubevirtv1.ResourceRequirements) int {
	q, ok := res.Limits[corev1.ResourceCPU]
	if !ok {
		q = res.Requests[corev1.ResourceCPU]
	}
	return int(min(max(q.Value(), 1), math.MaxUint32))
}

// product multiplies positive numbers. A product that does not fit is MaxInt:
// it is only compared with limits.
func product(factors ...int) int {
	n := uint64(1)
	for _, f := range factors {
		over, low := bits.Mul64(n, uint64(f))
		if over != 0 || low > math.MaxInt {
			return math.MaxInt
		}
		n = low
	}
	return int(n)
}
