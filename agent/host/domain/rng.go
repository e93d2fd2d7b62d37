package domain

import (
	"libvirt.org/go/libvirtxml"
)

// rng adds a source of random numbers if the VMI asks for one.
func rng(c *conversion) {
	if c.domain.Devices.Rng == nil {
		return
	}
	c.out.Devices.RNGs = []libvirtxml.DomainRNG{{
		Model:   c.virtioModel(),
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	}}
}
