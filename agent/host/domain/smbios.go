package domain

import (
	"strings"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"
)

// smbios fills in the SMBIOS tables, in which a guest finds its machine's manufacturer,
// serial number and UUID.
func smbios(c *conversion) {
	system := entries{}
	if f := c.domain.Firmware; f != nil {
		system.add("serial", f.Serial)
	}
	// The manufacturer is KubeVirt, because software in guests detects its platform by
	// that name.
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

// machineUUID gives the guest a UUID other than the domain's. libvirt refuses such a
// UUID in <sysinfo>, so it is passed as an argument to QEMU. QEMU merges this table
// with the one that libvirt asks for and uses the UUID as its own, so that fw_cfg and
// the monitor agree with the table.
func machineUUID(c *conversion) {
	wanted := FirmwareUUID(c.VMI)
	if wanted == c.out.UUID {
		return
	}
	// QEMU splits the argument at commas, so nothing but a UUID may be written here.
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
