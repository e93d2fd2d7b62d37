package domain

import (
	"strconv"

	"libvirt.org/go/libvirtxml"
)

// firstGuestCID is the lowest context identifier that is not reserved.
const firstGuestCID = 3

// vsock adds a socket between host and guest.
func vsock(c *conversion) {
	if !enabled(c.domain.Devices.AutoattachVSOCK, false) {
		return
	}
	if c.VSOCKCID < firstGuestCID {
		c.unsupported(c.root.Child("devices", "autoattachVSOCK"), true, "no context identifier has been allotted")
		return
	}
	c.out.Devices.VSock = &libvirtxml.DomainVSock{
		Model: c.virtioModel(),
		CID:   &libvirtxml.DomainVSockCID{Auto: "no", Address: strconv.FormatUint(uint64(c.VSOCKCID), 10)},
	}
}
