package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// FirmwareUUID returns the UUID that the guest sees as its machine's: the one asked
// for, or the VMI's own. Two guests of one host may have the same: KubeVirt derives it
// from the VMI's name, whatever the namespace, and users may choose any. So it is not
// the domain's, which libvirt wants to be unique: that is the VMI's UID.
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
	// A guest that ended stays ended: what happens next is decided for the whole
	// mesh, not by this host's libvirt.
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
