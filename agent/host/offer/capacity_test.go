package offer

import (
	"reflect"
	"testing"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

func TestAllocatable(t *testing.T) {
	const gib = int64(1) << 30
	for _, test := range []struct {
		name         string
		reserved     int64
		capabilities hypervisor.Capabilities
		want         machine.Resources
	}{
		{"the host keeps its part", gib, hypervisor.Capabilities{CPUs: 8, MemoryBytes: 32 * gib},
			machine.Resources{CPUMilli: 8000, MemoryBytes: 31 * gib, EphemeralBytes: 90 * gib, Hugepages: map[string]int64{}}},
		{"more is kept than there is", 4 * gib, hypervisor.Capabilities{CPUs: 1, MemoryBytes: 2 * gib},
			machine.Resources{CPUMilli: 1000, EphemeralBytes: 90 * gib, Hugepages: map[string]int64{}}},
		{"huge pages are no ordinary memory", 0, hypervisor.Capabilities{CPUs: 2, MemoryBytes: 16 * gib, NUMANodes: []hypervisor.NUMANode{
			{Hugepages: map[uint64]int64{4: 1 << 20, 2048: 512, 1 << 20: 2}},
			{Hugepages: map[uint64]int64{2048: 512, 1 << 20: 0}},
		}}, machine.Resources{CPUMilli: 2000, MemoryBytes: 12 * gib, EphemeralBytes: 90 * gib, Hugepages: map[string]int64{"2Mi": 2 * gib, "1Gi": 2 * gib}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := Allocatable(test.reserved, 100*gib, test.capabilities)
			if !reflect.DeepEqual(got, test.want) {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}
