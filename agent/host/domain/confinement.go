package domain

import (
	"fmt"
	"slices"

	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// modelDAC is libvirt's name for confinement by users and file modes.
const modelDAC = "dac"

// confinement makes the emulator run under a user of its own. libvirt gives it the disks
// and sockets of the domain at the start, and takes them away at the end. What AppArmor
// or SELinux add is libvirt's choice: it makes a label for each domain.
//
// Two kinds of guests keep the user that all guests had before. A disk that others may have
// open at the same time cannot belong to one of them. And where the folder of TPMs' sockets
// stays closed to all users but the common one, a guest with a TPM needs that.
func confinement(c *conversion) {
	if c.User == nil || machine.SharesDisks(&c.VMI.Spec) || readsShared(c) || hasTPM(c) && !c.User.ReachesTPM {
		return
	}
	c.out.SecLabel = append(c.out.SecLabel, libvirtxml.DomainSecLabel{
		Type: "static", Model: modelDAC, Relabel: "yes",
		Label: fmt.Sprintf("+%d:+%d", c.User.UID, c.User.GID), // the plus: numbers, not names
	})
}

// readsShared reports whether the guest has a disk that it can only read, such as a CD-ROM, on a
// volume that others may have at the same time: libvirt would give the volume to each guest that
// starts, which could then write what the others read.
func readsShared(c *conversion) bool {
	return slices.ContainsFunc(c.domain.Devices.Disks, func(d v1.Disk) bool {
		reads := d.CDRom != nil && enabled(d.CDRom.ReadOnly, true) || d.Disk != nil && d.Disk.ReadOnly || d.LUN != nil && d.LUN.ReadOnly
		return reads && c.Disks[d.Name].HeldByMany
	})
}

// leftAlone is the label of a file whose owner libvirt must not change.
func leftAlone() []libvirtxml.DomainDeviceSecLabel {
	return []libvirtxml.DomainDeviceSecLabel{{Model: modelDAC, Relabel: "no"}}
}
