package vmi

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// leastMemory is the smallest memory request that is accepted; in a smaller one, the
// user has most likely forgotten the unit.
var leastMemory = resource.MustParse("1M")

// addressSpace is what a processor with the most address bits of its architecture, 52,
// can address. Devices take a part of it, so memory is always less.
var addressSpace = resource.MustParse("4Pi")

// validateAddressable refuses memory that no processor can address.
func validateAddressable(at *field.Path, q *resource.Quantity) field.ErrorList {
	if q == nil || q.Cmp(addressSpace) < 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, q.String(), fmt.Sprintf("must be less than %s, which no processor can address", &addressSpace))}
}

func validateMemory(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain")
	res := at.Child("resources")
	request, limit := spec.Domain.Resources.Requests.Memory(), spec.Domain.Resources.Limits.Memory()
	var errs field.ErrorList
	if request.Sign() < 0 || request.Sign() > 0 && request.Cmp(leastMemory) < 0 {
		errs = append(errs, field.Invalid(res.Child("requests", "memory"), request.String(), "must be greater than or equal to 1M"))
	}
	if limit.Sign() < 0 {
		errs = append(errs, field.Invalid(res.Child("limits", "memory"), limit.String(), "must be greater than or equal to 0"))
	}
	if limit.Sign() > 0 && request.Cmp(*limit) > 0 {
		errs = append(errs, field.Invalid(res.Child("requests", "memory"), request.String(),
			fmt.Sprintf("is greater than %s '%s'", res.Child("limits", "memory"), limit)))
	}
	errs = append(errs, validateAddressable(res.Child("requests", "memory"), request)...)
	mem := spec.Domain.Memory
	if request.IsZero() && (mem == nil || mem.Guest == nil) {
		errs = append(errs, validateAddressable(res.Child("limits", "memory"), limit)...)
	}
	if mem == nil {
		return errs
	}
	errs = append(errs, validateAddressable(at.Child("memory", "guest"), mem.Guest)...)
	errs = append(errs, validateAddressable(at.Child("memory", "maxGuest"), mem.MaxGuest)...)
	guest := at.Child("memory", "guest")
	if q := guestQuantity(spec); q != nil && q.Value() < mib {
		errs = append(errs, field.Invalid(guest, q.String(), "must be greater than or equal to 1Mi"))
	}
	if mem.Guest != nil && limit.Sign() > 0 && mem.Guest.Cmp(*limit) > 0 {
		errs = append(errs, field.Invalid(guest, mem.Guest.String(),
			fmt.Sprintf("must be equal to or less than the memory limit %s '%s'", res.Child("limits", "memory"), limit)))
	}
	if mem.MaxGuest != nil && mem.Guest != nil && mem.Guest.Cmp(*mem.MaxGuest) > 0 {
		errs = append(errs, field.Invalid(guest, mem.Guest.String(), "is greater than maxGuest"))
	}
	return append(errs, validateHugepages(at.Child("memory", "hugepages", "pageSize"), spec)...)
}

func validateHugepages(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	mem := spec.Domain.Memory
	if mem.Hugepages == nil {
		return nil
	}
	page, err := PageSize(spec)
	if err != nil {
		return field.ErrorList{field.Invalid(at, mem.Hugepages.PageSize, "must be a positive quantity, such as 2Mi or 1Gi")}
	}
	if mem.Guest == nil {
		return nil
	}
	if mem.Guest.Value() < page {
		return field.ErrorList{field.Invalid(at, mem.Hugepages.PageSize, fmt.Sprintf("the guest's memory '%s' must be equal to or larger than the page size", mem.Guest))}
	}
	if mem.Guest.Value()%page != 0 {
		return field.ErrorList{field.Invalid(at, mem.Hugepages.PageSize, fmt.Sprintf("the guest's memory '%s' is not a multiple of the page size", mem.Guest))}
	}
	return nil
}

var cpuPolicies = []string{"", "force", "require", "optional", "disable", "forbid"}

func validateCPU(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain")
	res := at.Child("resources")
	request, limit := spec.Domain.Resources.Requests.Cpu(), spec.Domain.Resources.Limits.Cpu()
	var errs field.ErrorList
	if request.Sign() < 0 {
		errs = append(errs, field.Invalid(res.Child("requests", "cpu"), request.String(), "must be greater than or equal to 0"))
	}
	if limit.Sign() < 0 {
		errs = append(errs, field.Invalid(res.Child("limits", "cpu"), limit.String(), "must be greater than or equal to 0"))
	}
	if limit.Sign() > 0 && request.Cmp(*limit) > 0 {
		errs = append(errs, field.Invalid(res.Child("requests", "cpu"), request.String(),
			fmt.Sprintf("is greater than %s '%s'", res.Child("limits", "cpu"), limit)))
	}
	errs = append(errs, validateVCPUs(at, spec)...)
	cpu := spec.Domain.CPU
	if cpu == nil {
		return errs
	}
	at = at.Child("cpu")
	for i, f := range cpu.Features {
		if f.Name == "" {
			errs = append(errs, field.Required(at.Child("features").Index(i).Child("name"), ""))
		}
		errs = append(errs, oneOf(at.Child("features").Index(i).Child("policy"), f.Policy, cpuPolicies)...)
	}
	if cpu.MaxSockets != 0 && cpu.Sockets > cpu.MaxSockets {
		errs = append(errs, field.Invalid(at.Child("sockets"), cpu.Sockets, "Number of sockets in CPU topology is greater than the maximum sockets allowed"))
	}
	return errs
}

// validateVCPUs refuses more CPUs than a guest can have, and names the field that asks
// for them: the only part of the topology that is more than one, or else the topology.
// The defaults have written a number of CPUs that only the resources name into sockets.
func validateVCPUs(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	t := TopologyOf(spec)
	n := t.VCPUs()
	if n <= MaxVCPUsWithoutIOMMU {
		return nil
	}
	at = at.Child("cpu")
	switch n {
	case t.Sockets:
		at = at.Child("sockets")
	case t.Cores:
		at = at.Child("cores")
	case t.Threads:
		at = at.Child("threads")
	}
	return field.ErrorList{field.Invalid(at, n, fmt.Sprintf("a guest has at most %d CPUs", MaxVCPUsWithoutIOMMU))}
}

// validatePinning checks guests with dedicated CPUs, and the fields that only such
// guests may set.
func validatePinning(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	cpu := spec.Domain.CPU
	if cpu == nil {
		return nil
	}
	at = at.Child("domain")
	c := at.Child("cpu")
	numa := cpu.NUMA != nil && cpu.NUMA.GuestMappingPassthrough != nil
	var errs field.ErrorList
	if !cpu.DedicatedCPUPlacement {
		needs := func(set bool, name ...string) {
			if set {
				errs = append(errs, field.Invalid(c.Child(name[0], name[1:]...), true, "should be only set in combination with dedicatedCpuPlacement"))
			}
		}
		needs(cpu.IsolateEmulatorThread, "isolateEmulatorThread")
		needs(numa, "numa", "guestMappingPassthrough")
		needs(cpu.Realtime != nil, "realtime")
		return errs
	}
	if numa && (spec.Domain.Memory == nil || spec.Domain.Memory.Hugepages == nil) {
		errs = append(errs, field.Required(at.Child("memory", "hugepages"), "must be requested when NUMA topology strategy is set"))
	}
	if cpu.Realtime != nil && !numa {
		errs = append(errs, field.Required(c.Child("numa", "guestMappingPassthrough"), "must be defined when realtime is used"))
	}
	if cpu.Threads > 2 {
		errs = append(errs, field.Invalid(c.Child("threads"), cpu.Threads, "not more than two threads when dedicatedCpuPlacement is true"))
	}
	res, vcpus := spec.Domain.Resources, TopologyOf(spec).VCPUs()
	errs = append(errs, wholeCPUs(at.Child("resources", "requests", "cpu"), res.Requests.Cpu(), vcpus)...)
	errs = append(errs, wholeCPUs(at.Child("resources", "limits", "cpu"), res.Limits.Cpu(), vcpus)...)
	r, l := res.Requests.Memory(), res.Limits.Memory()
	if r.Sign() > 0 && l.Sign() > 0 && r.Cmp(*l) != 0 {
		errs = append(errs, field.Invalid(at.Child("resources", "requests", "memory"), r.String(), "must be equal to the memory limit when dedicatedCpuPlacement is true"))
	}
	return errs
}

// wholeCPUs checks that q, if set, is the number of the guest's CPUs.
func wholeCPUs(at *field.Path, q *resource.Quantity, vcpus int) field.ErrorList {
	switch {
	case q.Sign() <= 0:
		return nil
	case q.MilliValue()%1000 != 0:
		return field.ErrorList{field.Invalid(at, q.String(), "must be an integer when dedicatedCpuPlacement is true")}
	case q.Value() != int64(vcpus):
		return field.ErrorList{field.Invalid(at, q.String(), fmt.Sprintf("must be the number of the guest's CPUs, %d, when dedicatedCpuPlacement is true", vcpus))}
	}
	return nil
}

// podNetwork returns the instance's pod network, or nil if it has none.
func podNetwork(spec *kubevirtv1.VirtualMachineInstanceSpec) *kubevirtv1.Network {
	for i := range spec.Networks {
		if spec.Networks[i].Pod != nil {
			return &spec.Networks[i]
		}
	}
	return nil
}
