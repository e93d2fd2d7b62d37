package domain

import (
	"slices"
	"strings"

	"libvirt.org/go/libvirtxml"
)

// sparePorts is how many PCI devices can be plugged into a running guest: a few network
// cards. Disks need no port: they go on the SCSI controller, which is always there.
// There are no more ports because each takes address space, and time of the firmware at
// each boot.
const sparePorts = 4

// oldPCICards are the nicModels that are not PCI Express.
var oldPCICards = []string{"e1000", "ne2k_pci", "pcnet", "rtl8139"}

// pciPorts gives a q35 machine a port for every PCI Express device that it has, and
// some spare ones. A device can only be plugged into a port that existed when the guest
// started, and libvirt only adds ports for the devices in the definition.
func pciPorts(c *conversion) {
	machine := ""
	if c.out.OS.Type != nil {
		machine = c.out.OS.Type.Machine
	}
	if c.domain.Devices.DisableHotplug || !strings.Contains(machine, "q35") {
		return
	}
	ports := c.countPCIDevices() + sparePorts
	if !c.disablePCIHole64() {
		c.out.Devices.Controllers = append(c.out.Devices.Controllers,
			libvirtxml.DomainController{Type: "pci", Index: ptr(uint(0)), Model: "pcie-root"})
	}
	for i := range ports {
		c.out.Devices.Controllers = append(c.out.Devices.Controllers,
			libvirtxml.DomainController{Type: "pci", Index: ptr(uint(i + 1)), Model: "pcie-root-port"})
	}
}

// countPCIDevices counts the devices that libvirt puts behind a port of their own. Old
// PCI devices (the watchdog, some network cards, the AC97 sound card) sit behind a
// bridge, for which libvirt makes a port itself.
func (c *conversion) countPCIDevices() int {
	d := c.out.Devices
	n := len(d.RNGs) + len(d.Filesystems)
	for _, nic := range d.Interfaces {
		if nic.Model == nil || !slices.Contains(oldPCICards, nic.Model.Type) {
			n++
		}
	}
	for _, disk := range d.Disks {
		if disk.Target != nil && disk.Target.Bus == "virtio" {
			n++
		}
	}
	for _, controller := range d.Controllers {
		if controller.Type != "pci" && controller.Model != "none" {
			n++
		}
	}
	for _, h := range d.Hostdevs {
		if h.SubsysUSB == nil {
			n++
		}
	}
	for _, in := range d.Inputs {
		if in.Bus == "virtio" {
			n++
		}
	}
	if d.MemBalloon != nil && d.MemBalloon.Model != "none" {
		n++
	}
	if d.VSock != nil {
		n++
	}
	return n
}
