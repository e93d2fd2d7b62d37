package vmi

import (
	"k8s.io/apimachinery/pkg/api/equality"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// SameAtStart reports whether two instances start the same machine, that is whether
// they differ only in fields that take effect while a guest runs. Both get the same
// defaults and are compared by meaning: 128Mi equals 134217728, and a field that spells
// out its default makes no difference.
func (d Defaults) SameAtStart(a, b *kubevirtv1.VirtualMachineInstance) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	d.SetInstance(a)
	d.SetInstance(b)
	CopyLiveFields(&a.Spec, &b.Spec)
	b.Spec.StartStrategy = a.Spec.StartStrategy // asked for with one start, not by the template alone
	writeOut(&a.Spec)
	writeOut(&b.Spec)
	return equality.Semantic.DeepEqual(a.Spec, b.Spec)
}

// KeepSettings copies the CPU model and the room to grow of have, the running instance, to
// want, where template leaves them to the settings of the mesh. So a changed setting does
// not ask running machines to restart. Both want and have must have their defaults.
func KeepSettings(template, want, have *kubevirtv1.VirtualMachineInstanceSpec) {
	if cpu := template.Domain.CPU; (cpu == nil || cpu.Model == "") && have.Domain.CPU != nil {
		want.Domain.CPU.Model = have.Domain.CPU.Model
	}
	if cpu := template.Domain.CPU; (cpu == nil || cpu.MaxSockets == 0) && have.Domain.CPU != nil {
		want.Domain.CPU.MaxSockets = have.Domain.CPU.MaxSockets
	}
	if mem := template.Domain.Memory; (mem == nil || mem.MaxGuest == nil) && have.Domain.Memory != nil {
		want.Domain.Memory.MaxGuest = have.Domain.Memory.MaxGuest
	}
}

// CopyLiveFields copies the fields that take effect without a restart: where an
// instance may run next, and what an eviction does.
func CopyLiveFields(from, to *kubevirtv1.VirtualMachineInstanceSpec) {
	to.NodeSelector = from.NodeSelector
	to.Affinity = from.Affinity
	to.Tolerations = from.Tolerations
	to.TopologySpreadConstraints = from.TopologySpreadConstraints
	to.EvictionStrategy = from.EvictionStrategy
}

// writeOut rewrites fields that can express one meaning in several ways to one of those
// ways. It is used on copies only: stored objects keep the form in which clients wrote
// them.
func writeOut(spec *kubevirtv1.VirtualMachineInstanceSpec) {
	dom := &spec.Domain
	for flag, byDefault := range flags(dom) {
		if *flag == nil {
			*flag = &byDefault
		}
	}
	for i := range dom.CPU.Features {
		if f := &dom.CPU.Features[i]; f.Policy == "" {
			f.Policy = "require"
		}
	}
	if page, err := PageSize(spec); err == nil && page > 0 {
		dom.Memory.Hugepages.PageSize = PageName(page)
	}
}

// flags returns the flags of a domain for which unset means a default, each with that
// default.
func flags(dom *kubevirtv1.DomainSpec) map[**bool]bool {
	dev := &dom.Devices
	out := map[**bool]bool{
		&dev.AutoattachPodInterface:     true,
		&dev.AutoattachGraphicsDevice:   true,
		&dev.AutoattachSerialConsole:    true,
		&dev.AutoattachMemBalloon:       true,
		&dev.AutoattachInputDevice:      false,
		&dev.AutoattachVSOCK:            false,
		&dev.BlockMultiQueue:            false,
		&dev.NetworkInterfaceMultiQueue: false,
		&dev.UseVirtioTransitional:      false,
	}
	if t := dev.TPM; t != nil {
		out[&t.Enabled], out[&t.Persistent] = true, false
	}
	if f := dom.Firmware; f != nil && f.Bootloader != nil && f.Bootloader.EFI != nil {
		out[&f.Bootloader.EFI.SecureBoot], out[&f.Bootloader.EFI.Persistent] = true, false
	}
	for i := range dev.Disks {
		d := &dev.Disks[i]
		out[&d.DedicatedIOThread], out[&d.Shareable] = false, false
		if d.CDRom != nil {
			out[&d.CDRom.ReadOnly] = true
		}
	}
	return out
}
