package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// topology is the topology of the guest's CPUs. Its room for further CPUs is cut to the
// most that this host's emulator allows.
func (c *conversion) topology() machine.Topology {
	return machine.TopologyOf(&c.VMI.Spec).WithinLimit(c.Machine.Emulates().MaxVCPUs)
}

// cpu gives the guest its CPUs.
func cpu(c *conversion) {
	t := c.topology()
	count := &libvirtxml.DomainVCPU{Placement: "static", Value: uint(t.MaxVCPUs())}
	if t.VCPUs() < t.MaxVCPUs() {
		count.Current = uint(t.VCPUs())
	}
	c.out.VCPU = count
	c.out.CPU = cpuModel(c)
	c.out.CPU.Topology = &libvirtxml.DomainCPUTopology{Sockets: t.MaxSockets, Cores: t.Cores, Threads: t.Threads}
	c.out.CPU.Features = cpuFeatures(c)
	if s := c.domain.CPU; s != nil && s.NUMA != nil && s.NUMA.GuestMappingPassthrough != nil {
		c.unsupported(c.root.Child("cpu", "numa", "guestMappingPassthrough"), nil, "the host's memory nodes cannot be shown to the guest")
	}
}

// cpuModel chooses the CPU model. Without KVM a guest gets every feature that QEMU can
// emulate: named models and the host's own model demand features that QEMU cannot
// emulate.
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
	// Whether the host's CPU can provide the model also depends on the features that
	// are switched off. libvirt checks that.
	return &libvirtxml.DomainCPU{
		Mode: "custom", Match: "exact", Check: "partial",
		Model: &libvirtxml.DomainCPUModel{Fallback: "forbid", Value: model},
	}
}

// cpuFeatures adds the features that the VMI asks for. Named models of some Intel CPUs
// contain MPX, which newer CPUs and QEMU no longer have. MPX is left out unless the VMI
// asks for it; otherwise a guest with such a model could not start on a newer CPU.
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
