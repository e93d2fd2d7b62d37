package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// graphics adds a display that listens on no socket. Viewers reach it through the
// hypervisor, after the API has authorised them.
func graphics(c *conversion) {
	d := c.domain.Devices
	if !enabled(d.AutoattachGraphicsDevice, true) {
		if d.Video != nil {
			c.invalid(c.root.Child("devices", "video"), d.Video.Type, "needs autoattachGraphicsDevice")
		}
		return
	}
	c.out.Devices.Graphics = []libvirtxml.DomainGraphic{{
		VNC: &libvirtxml.DomainGraphicVNC{Listeners: []libvirtxml.DomainGraphicListener{{}}},
	}}
	model := libvirtxml.DomainVideoModel{Type: "vga", Heads: 1}
	if d.Video != nil && d.Video.Type != "" {
		switch d.Video.Type {
		case "vga", "cirrus", v1.VirtIO, "ramfb", "bochs":
			model.Type = d.Video.Type
		default:
			c.invalid(c.root.Child("devices", "video", "type"), d.Video.Type, "must be vga, cirrus, virtio, ramfb or bochs")
		}
	}
	if model.Type == "vga" {
		const vramKiB = 16384
		model.VRam = vramKiB
	}
	c.out.Devices.Videos = []libvirtxml.DomainVideo{{Model: model}}
}

// inputs adds the tablets that make the guest's pointer follow the viewer's pointer.
func inputs(c *conversion) {
	d := c.domain.Devices
	for i, in := range d.Inputs {
		path := c.root.Child("devices", "inputs").Index(i)
		if in.Type != v1.InputTypeTablet && in.Type != v1.InputTypeKeyboard {
			c.invalid(path.Child("type"), in.Type, "must be tablet or keyboard")
		}
		bus := in.Bus
		switch bus {
		case "":
			bus = v1.InputBusUSB
		case v1.InputBusUSB, v1.InputBusVirtio:
		default:
			c.invalid(path.Child("bus"), in.Bus, "must be usb or virtio")
		}
		out := libvirtxml.DomainInput{Type: string(in.Type), Bus: string(bus), Alias: userAlias(in.Name)}
		if bus == v1.InputBusVirtio {
			out.Model = v1.VirtIO // there are no transitional input devices
		}
		c.out.Devices.Inputs = append(c.out.Devices.Inputs, out)
	}
	if len(d.Inputs) == 0 && enabled(d.AutoattachInputDevice, false) {
		c.out.Devices.Inputs = []libvirtxml.DomainInput{{Type: "tablet", Bus: "usb", Alias: userAlias("default-0")}}
	}
}
