package domain

import (
	"libvirt.org/go/libvirtxml"
)

// rng adds a source of random numbers, if asked for.
func rng(c *conversion) {
	if c.domain.Devices.Rng == nil {
		return
	}
	c.out.Devices.RNGs = []libvirtxml.DomainRNG{{
		Model:   c.virtioModel(),
		Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
	}}
}
