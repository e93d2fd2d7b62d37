package domain

import (
	"regexp"
	"strconv"

	"k8s.io/apimachinery/pkg/util/validation/field"
	"libvirt.org/go/libvirtxml"
)

var pciPattern = regexp.MustCompile(`^([0-9a-fA-F]{4}):([0-9a-fA-F]{2}):([0-9a-fA-F]{2})\.([0-7])$`)

// pciAddress parses 0000:01:00.0. An empty address is none.
func pciAddress(c *conversion, path *field.Path, text string) *libvirtxml.DomainAddress {
	if text == "" {
		return nil
	}
	m := pciPattern.FindStringSubmatch(text)
	if m == nil {
		c.invalid(path, text, "must be a PCI address, as 0000:01:00.0")
		return nil
	}
	part := func(i int) *uint {
		// Everything that the pattern matches parses without error.
		n, _ := strconv.ParseUint(m[i], 16, 16)
		return ptr(uint(n))
	}
	return &libvirtxml.DomainAddress{PCI: &libvirtxml.DomainAddressPCI{
		Domain: part(1), Bus: part(2), Slot: part(3), Function: part(4),
	}}
}

// virtioModel is the model of the virtio devices: the current one, or for old guests
// the transitional one, which also speaks the old protocol.
func (c *conversion) virtioModel() string {
	if enabled(c.domain.Devices.UseVirtioTransitional, false) {
		return "virtio-transitional"
	}
	return "virtio-non-transitional"
}
