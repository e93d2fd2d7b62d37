package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// FirmwareUUID returns the machine UUID that the guest sees: the one in the spec, or
// else the VMI's UID. Two guests of one host may have the same firmware UUID, because
// KubeVirt derives it from the VMI's name without the namespace, and users may choose
// any. libvirt requires the UUID of a domain to be unique, so the domain's UUID is the
// VMI's UID instead.
func FirmwareUUID(vmi *v1.VirtualMachineInstance) string {
	if f := vmi.Spec.Domain.Firmware; f != nil && f.UUID != "" {
		return string(f.UUID)
	}
	return string(vmi.UID)
}

// Ref returns the name by which the hypervisor knows vmi.
func Ref(vmi *v1.VirtualMachineInstance) hypervisor.Ref {
	return hypervisor.Ref{Namespace: vmi.Namespace, Name: vmi.Name, UID: string(vmi.UID)}
}

// identity names the domain and marks it as ours.
func identity(c *conversion) {
	ref := Ref(c.VMI)
	c.out.Type = "qemu"
	if c.Machine.KVM {
		c.out.Type = "kvm"
	}
	c.out.Name = ref.DomainName()
	c.out.UUID = string(c.VMI.UID)
	owner := hypervisor.Owner{Ref: ref, Host: c.Host, Epoch: c.Epoch}
	c.out.Metadata = &libvirtxml.DomainMetadata{XML: owner.Metadata()}
	// libvirt must not restart a guest that has ended: whether it starts again is
	// decided for the whole mesh, not by this host's libvirt.
	c.out.OnPoweroff = "destroy"
	c.out.OnCrash = "destroy"
	if p := c.domain.RebootPolicy; p != nil {
		switch *p {
		case v1.RebootPolicyTerminate:
			c.out.OnReboot = "destroy"
		case v1.RebootPolicyReboot:
			c.out.OnReboot = "restart"
		default:
			c.invalid(c.root.Child("rebootPolicy"), *p, "must be Reboot or Terminate")
		}
	}
}
