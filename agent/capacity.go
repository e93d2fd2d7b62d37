package agent

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/stewards/schedule/place"
	"virtmesh/gossip"
)

// factsInterval is how often a host looks at itself. Facts travel by gossip
// and cost no write.
const factsInterval = 5 * time.Second

// allocatable is what guests may use of this host.
func allocatable(config CapacityConfig, capabilities hypervisor.Capabilities) place.Resources {
	cpus := capabilities.CPUs
	if cpus == 0 {
		cpus = runtime.NumCPU()
	}
	memory := max(0, capabilities.MemoryBytes-config.ReservedMemoryBytes)
	hugepages := map[string]int64{}
	for _, node := range capabilities.NUMANodes {
		for kib, pages := range node.Hugepages {
			if pages > 0 && kib > normalPageKiB {
				hugepages[pageSizeName(kib)] += pages
				memory -= pages * int64(kib) << 10
			}
		}
	}
	return place.Resources{CPUMilli: int64(cpus) * 1000, MemoryBytes: max(0, memory), Hugepages: hugepages}
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

// policy is how far hosts may be committed. It must be the same on all hosts.
func (c CapacityConfig) policy() place.Policy {
	policy := place.DefaultPolicy()
	policy.Strategy = place.Strategy(c.Policy)
	policy.CPUAllocationRatio = c.CPUAllocationRatio
	policy.MemoryOvercommitPercent = c.MemoryOvercommitPercent
	return policy
}

// tellFacts keeps the mesh informed of what this host can carry, until ctx
// ends.
func (h *host) tellFacts(ctx context.Context) error {
	ticker := time.NewTicker(factsInterval)
	defer ticker.Stop()
	for {
		if err := h.gossip.SetFacts(h.facts(ctx)); err != nil {
			h.log.Warn("this host's facts could not be told", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (h *host) facts(ctx context.Context) gossip.Facts {
	free := h.allocatable
	for _, claim := range h.claims.OnHost(h.config.Name) {
		free = free.Sub(claim.Resources)
	}
	facts := gossip.Facts{
		MeshAddr: h.config.MeshAddress(), Zone: h.config.Zone, Version: h.version, FeatureLevel: featureLevel,
		Allocatable: gossipResources(h.allocatable), Free: gossipResources(free),
		Pools: map[string]gossip.Pool{}, Load: load(), KVM: h.kvm.Usable, CPUModels: h.capabilities.CPUModels,
		Images: h.volumes.ImageReferences(), Labels: h.config.Labels,
	}
	for name, usage := range h.provisioner.Usage(ctx) {
		facts.Pools[name] = gossip.Pool{Capacity: usage.Capacity, Free: usage.Free}
	}
	if node, ok := h.nodes.Get(nodeKey(h.config.Name)); ok {
		facts.Unschedulable = node.Spec.Unschedulable
	}
	return facts
}

func gossipResources(r place.Resources) gossip.Resources {
	return gossip.Resources{CPUMilli: r.CPUMilli, MemoryBytes: r.MemoryBytes, Hugepages: r.Hugepages, Devices: r.Devices}
}

// load is the share of the CPUs that had work in the last minute.
func load() float64 {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(data), " ")
	value, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return value / float64(runtime.NumCPU())
}
