package domain

import (
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"
)

// smbios fills the tables in which a guest finds its machine's maker, serial number
// and UUID.
func smbios(c *conversion) {
	system := entries{}
	if f := c.domain.Firmware; f != nil {
		system.add("serial", f.Serial)
	}
	// The maker is KubeVirt, by which software in guests knows where it runs.
	system.add("manufacturer", "KubeVirt")
	system.add("product", "None")
	system.add("family", "KubeVirt")

	table := &libvirtxml.DomainSysInfoSMBIOS{System: &libvirtxml.DomainSysInfoSystem{Entry: system}}
	if ch := c.domain.Chassis; ch != nil {
		chassis := entries{}
		chassis.add("manufacturer", ch.Manufacturer)
		chassis.add("version", ch.Version)
		chassis.add("serial", ch.Serial)
		chassis.add("asset", ch.Asset)
		chassis.add("sku", ch.Sku)
		if len(chassis) > 0 {
			table.Chassis = &libvirtxml.DomainSysInfoChassis{Entry: chassis}
		}
	}
	c.out.SysInfo = []libvirtxml.DomainSysInfo{{SMBIOS: table}}
	c.out.OS.SMBios = &libvirtxml.DomainSMBios{Mode: "sysinfo"}
	machineUUID(c)
}

// machineUUID gives the guest a UUID other than the domain's. libvirt refuses that in
// <sysinfo>, so QEMU is told: it merges this table with the one that libvirt asks for,
// and takes the UUID for its own, so that fw_cfg and the monitor agree with the table.
func machineUUID(c *conversion) {
	wanted := FirmwareUUID(c.VMI)
	if wanted == c.out.UUID {
		return
	}
	// QEMU splits the argument at commas: nothing but a UUID may get there.
	parsed, err := uuid.Parse(wanted)
	if err != nil || !strings.EqualFold(parsed.String(), wanted) {
		c.invalid(c.root.Child("firmware", "uuid"), wanted, "must be a UUID, as 5d307ca9-b3ef-428c-8861-06e72d69f223")
		return
	}
	c.out.QEMUCommandline = &libvirtxml.DomainQEMUCommandline{Args: []libvirtxml.DomainQEMUCommandlineArg{
		{Value: "-smbios"}, {Value: "type=1,uuid=" + parsed.String()},
	}}
}

type entries []libvirtxml.DomainSysInfoEntry

func (e *entries) add(name, value string) {
	if value != "" {
		*e = append(*e, libvirtxml.DomainSysInfoEntry{Name: name, Value: value})
	}
}
