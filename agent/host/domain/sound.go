package domain

import (
	"libvirt.org/go/libvirtxml"
)

// sound adds a sound card whose output is discarded: VNC carries no audio here.
func sound(c *conversion) {
	s := c.domain.Devices.Sound
	if s == nil {
		return
	}
	model := s.Model
	switch model {
	case "":
		model = "ich9"
	case "ich9", "ac97":
	default:
		c.invalid(c.root.Child("devices", "sound", "model"), model, "must be ich9 or ac97")
	}
	c.out.Devices.Sounds = []libvirtxml.DomainSound{{Model: model, Alias: userAlias(s.Name)}}
}
