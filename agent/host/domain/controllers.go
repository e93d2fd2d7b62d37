package domain

import (
	"strings"

	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// controllers adds the controllers that libvirt would not add by itself, or for which
// it would choose another model.
func controllers(c *conversion) {
	add := func(kind, model string) {
		c.out.Devices.Controllers = append(c.out.Devices.Controllers,
			libvirtxml.DomainController{Type: kind, Index: ptr(uint(0)), Model: model})
	}
	if c.needsUSB() {
		add("usb", "qemu-xhci")
	} else {
		add("usb", "none")
	}
	if c.needsSCSI() {
		add("scsi", c.virtioModel())
	}
	add("virtio-serial", c.virtioModel())
	if c.disablePCIHole64() {
		c.out.Devices.Controllers = append(c.out.Devices.Controllers, libvirtxml.DomainController{
			Type: "pci", Index: ptr(uint(0)), Model: "pcie-root",
			PCI: &libvirtxml.DomainControllerPCI{Hole64: &libvirtxml.DomainControllerPCIHole64{Size: 0, Unit: "KiB"}},
		})
	}
}

// disablePCIHole64 is for old versions of Windows, which cannot use devices above 4
// GiB.
func (c *conversion) disablePCIHole64() bool {
	return strings.EqualFold(c.VMI.Annotations[v1.DisablePCIHole64], "true")
}

func (c *conversion) needsUSB() bool {
	for _, in := range c.out.Devices.Inputs {
		if in.Bus == "usb" {
			return true
		}
	}
	for _, d := range c.out.Devices.Disks {
		if d.Target != nil && d.Target.Bus == "usb" {
			return true
		}
	}
	for _, h := range c.out.Devices.Hostdevs {
		if h.SubsysUSB != nil {
			return true
		}
	}
	return false
}

// needsSCSI reports whether the guest needs a SCSI controller. Disks are plugged into a
// running guest through its SCSI bus, so a guest without one cannot get them.
func (c *conversion) needsSCSI() bool {
	if !c.domain.Devices.DisableHotplug {
		return true
	}
	for _, d := range c.out.Devices.Disks {
		if d.Target != nil && d.Target.Bus == "scsi" {
			return true
		}
	}
	return false
}
