package domain

import (
	"slices"

	k8sv1 "k8s.io/api/core/v1"
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// Topology is the shape of a guest's CPUs.
type Topology struct {
	Sockets, Cores, Threads int
	// MaxSockets is Sockets, or more when CPUs can be added later.
	MaxSockets int
}

// VCPUs is the number of CPUs the guest starts with.
func (t Topology) VCPUs() int { return t.Sockets * t.Cores * t.Threads }

// MaxVCPUs is the number it can have.
func (t Topology) MaxVCPUs() int { return t.MaxSockets * t.Cores * t.Threads }

// TopologyOf returns the topology that vmi asks for. Where it names none, one socket
// for each CPU of its limit, or else its request, as KubeVirt does.
func TopologyOf(vmi *v1.VirtualMachineInstance) Topology {
	t := Topology{Sockets: 1, Cores: 1, Threads: 1}
	spec := vmi.Spec.Domain.CPU
	if spec != nil {
		t.Sockets = max(1, int(spec.Sockets))
		t.Cores = max(1, int(spec.Cores))
		t.Threads = max(1, int(spec.Threads))
	}
	if spec == nil || (spec.Cores == 0 && spec.Sockets == 0 && spec.Threads == 0) {
		resources := vmi.Spec.Domain.Resources
		if limit, ok := resources.Limits[k8sv1.ResourceCPU]; ok {
			t.Sockets = max(1, int(limit.Value()))
		} else if request, ok := resources.Requests[k8sv1.ResourceCPU]; ok {
			t.Sockets = max(1, int(request.Value()))
		}
	}
	t.MaxSockets = t.Sockets
	if spec != nil && int(spec.MaxSockets) > t.Sockets {
		t.MaxSockets = int(spec.MaxSockets)
	}
	return t
}

// cpu gives the guest its CPUs.
func cpu(c *conversion) {
	t := TopologyOf(c.VMI)
	path := c.root.Child("cpu")
	if limit := c.Machine.MaxCPUs; limit > 0 && t.MaxVCPUs() > limit {
		c.unsupported(path, t.MaxVCPUs(), "this host's guests can have at most %d CPUs", limit)
	}
	count := &libvirtxml.DomainVCPU{Placement: "static", Value: uint(t.MaxVCPUs())}
	if t.VCPUs() < t.MaxVCPUs() {
		count.Current = uint(t.VCPUs())
	}
	c.out.VCPU = count
	c.out.CPU = cpuModel(c)
	c.out.CPU.Topology = &libvirtxml.DomainCPUTopology{Sockets: t.MaxSockets, Cores: t.Cores, Threads: t.Threads}
	c.out.CPU.Features = cpuFeatures(c)
	if s := c.domain.CPU; s != nil && s.NUMA != nil && s.NUMA.GuestMappingPassthrough != nil {
		c.unsupported(path.Child("numa", "guestMappingPassthrough"), nil, "the host's memory nodes cannot be shown to the guest")
	}
}

// cpuModel names the model. Without KVM a guest gets all that QEMU can emulate: named
// models and the host's own demand features that it cannot.
func cpuModel(c *conversion) *libvirtxml.DomainCPU {
	model := v1.DefaultCPUModel
	if s := c.domain.CPU; s != nil && s.Model != "" {
		model = s.Model
	}
	path := c.root.Child("cpu", "model")
	if !c.Machine.KVM {
		if s := c.domain.CPU; s != nil && s.Model != "" {
			c.warn(path, "%s is emulated on this host: the guest gets the emulator's maximum instead", s.Model)
		}
		return &libvirtxml.DomainCPU{Mode: "maximum", Check: "none"}
	}
	switch model {
	case v1.CPUModeHostPassthrough:
		return &libvirtxml.DomainCPU{Mode: model, Check: "none", Migratable: "on"}
	case v1.CPUModeHostModel:
		return &libvirtxml.DomainCPU{Mode: model, Check: "partial"}
	}
	if len(c.Machine.CPUModels) > 0 && !slices.Contains(c.Machine.CPUModels, model) {
		c.unsupported(path, model, "this host's CPU cannot be given that model")
	}
	return &libvirtxml.DomainCPU{
		Mode: "custom", Match: "exact", Check: "partial",
		Model: &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: model},
	}
}

// cpuFeatures adds what the VMI asks for. Named models of some Intel CPUs contain MPX,
// which newer CPUs and QEMU have lost: unless asked for it is left out, or such a model
// could not start on a newer CPU.
func cpuFeatures(c *conversion) []libvirtxml.DomainCPUFeature {
	spec := c.domain.CPU
	if spec == nil {
		return nil
	}
	var out []libvirtxml.DomainCPUFeature
	mpx := false
	for i, f := range spec.Features {
		path := c.root.Child("cpu", "features").Index(i)
		policy := f.Policy
		if policy == "" {
			policy = "require"
		}
		switch policy {
		case "force", "require", "optional", "disable", "forbid":
		default:
			c.invalid(path.Child("policy"), policy, "must be force, require, optional, disable or forbid")
		}
		if f.Name == "" {
			c.invalid(path.Child("name"), nil, "must be set")
		}
		mpx = mpx || f.Name == "mpx"
		if !c.Machine.KVM && (policy == "require" || policy == "force") {
			c.warn(path, "%s is left out: this host emulates CPUs", f.Name)
			continue
		}
		out = append(out, libvirtxml.DomainCPUFeature{Name: f.Name, Policy: policy})
	}
	named := spec.Model != "" && spec.Model != v1.CPUModeHostModel && spec.Model != v1.CPUModeHostPassthrough
	if c.Machine.KVM && named && !mpx {
		out = append(out, libvirtxml.DomainCPUFeature{Name: "mpx", Policy: "disable"})
	}
	return out
}
