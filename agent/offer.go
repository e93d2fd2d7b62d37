package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/port/guests"
	"virtmesh/agent/stewards/nodes"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/schedule/place"
)

// offerer answers other hosts' requests for an offer.
type offerer struct{ host *host }

var _ guests.Offerer = offerer{}

// Offer implements hostrpc.Offerer.
func (o offerer) Offer(_ context.Context, request []byte) ([]byte, error) {
	var r schedule.OfferRequest
	if err := json.Unmarshal(request, &r); err != nil {
		return nil, fmt.Errorf("read offer request: %w", err)
	}
	return json.Marshal(o.host.judge(r))
}

var _ schedule.Offers = (*host)(nil)

// Offer implements placement's Offers: it asks a host, this one without a
// detour.
func (h *host) Offer(ctx context.Context, name string, r schedule.OfferRequest) (schedule.Offer, error) {
	if name == h.config.Name {
		return h.judge(r), nil
	}
	request, err := json.Marshal(r)
	if err != nil {
		return schedule.Offer{}, fmt.Errorf("encode offer request: %w", err)
	}
	answer, err := h.router.Offer(ctx, name, request)
	if err != nil {
		return schedule.Offer{}, err
	}
	var offer schedule.Offer
	if err := json.Unmarshal(answer, &offer); err != nil {
		return schedule.Offer{}, fmt.Errorf("read the offer of %s: %w", name, err)
	}
	return offer, nil
}

// judge decides whether this host would run an instance now, by what only it
// knows: the memory that is really free, and what its processor can do.
func (h *host) judge(r schedule.OfferRequest) schedule.Offer {
	refuse := func(format string, args ...any) schedule.Offer {
		return schedule.Offer{Reason: fmt.Sprintf(format, args...)}
	}
	free := h.allocatable
	for _, claim := range h.claims.OnHost(h.config.Name) {
		if claim.UID != r.UID {
			free = free.Sub(claim.Resources)
		}
	}
	if lacking := free.Lacking(r.Resources); len(lacking) > 0 {
		return refuse("Insufficient %s", strings.Join(lacking, ", "))
	}
	if available := memoryAvailable(); available > 0 && available < r.Resources.MemoryBytes {
		return refuse("only %d MiB of memory are really free", available>>20)
	}
	if r.CPUModel != "" && !slices.Contains(h.capabilities.CPUModels, r.CPUModel) {
		return refuse("the processor cannot run CPU model %s", r.CPUModel)
	}
	return schedule.Offer{Accepted: true}
}

// memoryAvailable is the kernel's estimate of what can be used without
// swapping, 0 if it cannot be read.
func memoryAvailable() int64 {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// describe is what this host says of itself in its Node object.
func (h *host) describe() nodes.Description {
	capacity := place.Resources{CPUMilli: int64(h.capabilities.CPUs) * 1000, MemoryBytes: h.capabilities.MemoryBytes}
	return nodes.Description{
		Capacity: capacity, Allocatable: h.allocatable,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: h.config.Advertise}, {Type: corev1.NodeHostName, Address: h.config.Name},
		},
		Info: nodes.SystemInfo("/", h.version), PodCIDR: h.network.Subnet.String(), Zone: h.config.Zone, Labels: h.config.Labels,
		KVM: h.kvm.Usable, KVMReason: h.kvm.Reason,
		CPUVendor: h.capabilities.HostVendor, HostModel: h.capabilities.HostModel,
		CPUModels: h.capabilities.CPUModels, CPUFeatures: h.capabilities.HostFeatures, MachineTypes: h.capabilities.MachineTypes,
	}
}
