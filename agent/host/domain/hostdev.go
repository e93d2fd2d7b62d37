package domain

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
	"libvirt.org/go/libvirtxml"
)

// hostDevices passes GPUs and other devices of the host through to the guest.
func hostDevices(c *conversion) {
	path := c.root.Child("devices", "gpus")
	for i, g := range c.domain.Devices.GPUs {
		out, ok := hostDevice(c, path.Index(i), g.Name, g.DeviceName)
		if !ok {
			continue
		}
		graphics := enabled(c.domain.Devices.AutoattachGraphicsDevice, true)
		if out.SubsysMDev != nil && graphics && g.VirtualGPUOptions != nil && g.VirtualGPUOptions.Display != nil {
			display := g.VirtualGPUOptions.Display
			out.SubsysMDev.Display = onOff(enabled(display.Enabled, true))
			if display.RamFB == nil || enabled(display.RamFB.Enabled, true) {
				out.SubsysMDev.RamFB = out.SubsysMDev.Display
			}
		}
		c.out.Devices.Hostdevs = append(c.out.Devices.Hostdevs, out)
	}
	path = c.root.Child("devices", "hostDevices")
	for i, d := range c.domain.Devices.HostDevices {
		if out, ok := hostDevice(c, path.Index(i), d.Name, d.DeviceName); ok {
			c.out.Devices.Hostdevs = append(c.out.Devices.Hostdevs, out)
		}
	}
}

func hostDevice(c *conversion, path *field.Path, name, resource string) (libvirtxml.DomainHostdev, bool) {
	device, ok := c.HostDevices[name]
	out := libvirtxml.DomainHostdev{Managed: "no", Alias: userAlias(name)}
	switch {
	case !ok:
		c.unsupported(path.Child("deviceName"), resource, "no such device has been set aside on this host")
		return out, false
	case device.PCI != "":
		address := pciAddress(c, path.Child("deviceName"), device.PCI)
		if address == nil {
			return out, false
		}
		out.Managed = "yes"
		out.SubsysPCI = &libvirtxml.DomainHostdevSubsysPCI{Source: &libvirtxml.DomainHostdevSubsysPCISource{Address: address.PCI}}
	case device.MDev != "":
		out.SubsysMDev = &libvirtxml.DomainHostdevSubsysMDev{
			Model:  "vfio-pci",
			Source: &libvirtxml.DomainHostdevSubsysMDevSource{Address: &libvirtxml.DomainAddressMDev{UUID: device.MDev}},
		}
	case device.USB != nil:
		out.SubsysUSB = &libvirtxml.DomainHostdevSubsysUSB{Source: &libvirtxml.DomainHostdevSubsysUSBSource{
			Address: &libvirtxml.DomainAddressUSB{Bus: &device.USB.Bus, Device: &device.USB.Device},
		}}
	default:
		c.invalid(path.Child("name"), name, "its device has no address")
		return out, false
	}
	return out, true
}
