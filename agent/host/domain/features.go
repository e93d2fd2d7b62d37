package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// features switches the machine's features that are not devices.
func features(c *conversion) {
	spec := c.domain.Features
	if spec == nil {
		spec = &v1.Features{}
	}
	out := c.out.Features
	out.VMPort = &libvirtxml.DomainFeatureState{State: "off"}
	if enabled(spec.ACPI.Enabled, true) {
		out.ACPI = &libvirtxml.DomainFeature{}
	}
	if spec.APIC != nil && enabled(spec.APIC.Enabled, true) {
		out.APIC = &libvirtxml.DomainFeatureAPIC{}
		if spec.APIC.EndOfInterrupt {
			out.APIC.EOI = "on"
		}
	}
	systemManagement(c, spec)
	if !c.Machine.KVM {
		withoutKVM(c, spec)
		return
	}
	if spec.KVM != nil {
		out.KVM = &libvirtxml.DomainFeatureKVM{Hidden: &libvirtxml.DomainFeatureState{State: onOff(spec.KVM.Hidden)}}
	}
	if spec.Pvspinlock != nil {
		out.PVSpinlock = featureState(spec.Pvspinlock)
	}
	hyperv(c, spec)
}

// systemManagement switches SMM. Without SMM, firmware cannot protect the variables
// that secure boot relies on.
func systemManagement(c *conversion, spec *v1.Features) {
	wanted := spec.SMM != nil && enabled(spec.SMM.Enabled, true)
	refused := spec.SMM != nil && !wanted
	if machine.SecureBoot(&c.VMI.Spec) && refused {
		c.invalid(c.root.Child("features", "smm", "enabled"), false, "secure boot needs it")
	}
	if wanted || machine.SecureBoot(&c.VMI.Spec) {
		c.out.Features.SMM = &libvirtxml.DomainFeatureSMM{State: "on"}
	}
}

// withoutKVM warns about the features that are left out because only KVM provides them.
func withoutKVM(c *conversion, spec *v1.Features) {
	path := c.root.Child("features")
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"kvm", spec.KVM != nil},
		{"pvspinlock", spec.Pvspinlock != nil},
		{"hyperv", spec.Hyperv != nil},
		{"hypervPassthrough", spec.HypervPassthrough != nil && enabled(spec.HypervPassthrough.Enabled, true)},
	} {
		if f.set {
			c.warn(path.Child(f.name), "left out: this host emulates CPUs")
		}
	}
}

// hyperv switches on the Hyper-V interfaces with which Windows runs well.
func hyperv(c *conversion, spec *v1.Features) {
	if spec.Hyperv == nil {
		if p := spec.HypervPassthrough; p != nil && enabled(p.Enabled, true) {
			c.out.Features.HyperV = &libvirtxml.DomainFeatureHyperV{Mode: "passthrough"}
		}
		return
	}
	h := spec.Hyperv
	out := &libvirtxml.DomainFeatureHyperV{
		Mode:            "custom",
		Relaxed:         featureState(h.Relaxed),
		VAPIC:           featureState(h.VAPIC),
		VPIndex:         featureState(h.VPIndex),
		Runtime:         featureState(h.Runtime),
		Synic:           featureState(h.SyNIC),
		Reset:           featureState(h.Reset),
		Frequencies:     featureState(h.Frequencies),
		ReEnlightenment: featureState(h.Reenlightenment),
		IPI:             featureState(h.IPI),
		EVMCS:           featureState(h.EVMCS),
	}
	if s := h.Spinlocks; s != nil {
		const retries = 4096
		out.Spinlocks = &libvirtxml.DomainFeatureHyperVSpinlocks{DomainFeatureState: *featureState(&s.FeatureState), Retries: retries}
		if s.Retries != nil {
			out.Spinlocks.Retries = uint(*s.Retries)
		}
	}
	if v := h.VendorID; v != nil {
		out.VendorId = &libvirtxml.DomainFeatureHyperVVendorId{DomainFeatureState: *featureState(&v.FeatureState), Value: v.VendorID}
	}
	if t := h.SyNICTimer; t != nil {
		out.STimer = &libvirtxml.DomainFeatureHyperVSTimer{DomainFeatureState: *featureState(&t.FeatureState), Direct: featureState(t.Direct)}
	}
	if t := h.TLBFlush; t != nil {
		out.TLBFlush = &libvirtxml.DomainFeatureHyperVTLBFlush{
			DomainFeatureState: *featureState(&t.FeatureState),
			Direct:             featureState(t.Direct),
			Extended:           featureState(t.Extended),
		}
	}
	c.out.Features.HyperV = out
}

func featureState(s *v1.FeatureState) *libvirtxml.DomainFeatureState {
	if s == nil {
		return nil
	}
	return &libvirtxml.DomainFeatureState{State: onOff(enabled(s.Enabled, true))}
}
