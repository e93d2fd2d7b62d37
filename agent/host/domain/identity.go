package domain

import (
	"time"

	"github.com/google/uuid"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
	machine "virtmesh/agent/vmi"
)

// machines is the UUID namespace of machines. It never changes: what TPMs and firmware
// keep is found by the UUIDs of machines.
var machines = uuid.MustParse("d3f1c1de-6a0f-4e0b-9a37-0c1f0c3f5c8e")

// UUID returns the UUID of the domain that runs vmi: that of its machine, or of the
// machine's TPM if that keeps its state. libvirt finds the state of a TPM by the UUID of
// the domain, so a TPM that does not keep its state must not have the UUID of one that
// did: it would go on with that state, and remove it in the end.
//
// A domain that an earlier version started has its instance's UID for a UUID, and keeps
// it until it ends.
func UUID(vmi *v1.VirtualMachineInstance) string {
	if machine.KeepsTPM(&vmi.Spec) {
		return TPMUUID(Machine(vmi))
	}
	return Machine(vmi)
}

// TPMUUID returns the UUID of the domain of a machine whose TPM keeps its state.
func TPMUUID(machine string) string {
	return uuid.NewSHA1(machines, []byte(machine+"/tpm")).String()
}

// Machine returns the UUID of the machine that vmi is an instance of. All instances of a
// VirtualMachine, one after the other and on every host, have the same one, and an
// instance without a VirtualMachine has its own. No two machines of the mesh have the
// same one: it is derived from a UID, and also from namespace and name, because users
// may write any UID into a reference to an owner.
func Machine(vmi *v1.VirtualMachineInstance) string {
	life := vmi.UID
	if owner := metav1.GetControllerOf(vmi); owner != nil && isMachine(owner) && owner.Name == vmi.Name {
		life = owner.UID
	}
	return uuid.NewSHA1(machines, []byte(vmi.Namespace+"/"+vmi.Name+"/"+string(life))).String()
}

// isMachine reports whether owner refers to a VirtualMachine, of any version of the API.
func isMachine(owner *metav1.OwnerReference) bool {
	kind := v1.VirtualMachineGroupVersionKind
	group, err := schema.ParseGroupVersion(owner.APIVersion)
	return err == nil && group.Group == kind.Group && owner.Kind == kind.Kind
}

// FirmwareUUID returns the machine UUID that the guest sees: the one in the spec, or
// else the domain's. Two guests of one host may have the same firmware UUID, because
// KubeVirt derives it from the VMI's name without the namespace, and users may choose
// any. libvirt requires the UUID of a domain to be unique, so the domain has another.
func FirmwareUUID(vmi *v1.VirtualMachineInstance) string {
	if f := vmi.Spec.Domain.Firmware; f != nil && f.UUID != "" {
		return string(f.UUID)
	}
	return UUID(vmi)
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
	c.out.UUID = UUID(c.VMI)
	owner := hypervisor.Owner{
		Ref: ref, Host: c.Host, Epoch: c.Epoch,
		KeepNVRAM: machine.KeepsVariables(&c.VMI.Spec), KeepTPM: machine.KeepsTPM(&c.VMI.Spec),
	}
	// 0 would say that nobody has said.
	if owner.GraceSeconds = int64(machine.GracePeriod(&c.VMI.Spec) / time.Second); owner.GraceSeconds <= 0 {
		owner.GraceSeconds = -1
	}
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
