package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// panics adds the devices through which a guest reports that its kernel gave up.
func panics(c *conversion) {
	for i, p := range c.domain.Devices.PanicDevices {
		out := libvirtxml.DomainPanic{}
		if p.Model != nil {
			switch *p.Model {
			case v1.Hyperv, v1.Isa, v1.Pvpanic:
				out.Model = string(*p.Model)
			default:
				c.invalid(c.root.Child("devices", "panicDevices").Index(i).Child("model"), *p.Model, "must be hyperv, isa or pvpanic")
			}
		}
		c.out.Devices.Panics = append(c.out.Devices.Panics, out)
	}
}
