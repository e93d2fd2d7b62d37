package domainxml

import (
	"libvirt.org/go/libvirtxml"
)

// smbios fills the tables in which a guest finds its machine's maker, serial number
// and UUID.
func smbios(c *conversion) {
	maker := c.SMBIOS
	if maker == (SMBIOS{}) {
		maker = SMBIOS{Manufacturer: "KubeVirt", Product: "None", Family: "KubeVirt"}
	}
	system := entries{}
	system.add("uuid", c.out.UUID)
	if f := c.domain.Firmware; f != nil {
		system.add("serial", f.Serial)
	}
	system.add("manufacturer", maker.Manufacturer)
	system.add("product", maker.Product)
	system.add("version", maker.Version)
	system.add("sku", maker.SKU)
	system.add("family", maker.Family)

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
}

type entries []libvirtxml.DomainSysInfoEntry

func (e *entries) add(name, value string) {
	if value != "" {
		*e = append(*e, libvirtxml.DomainSysInfoEntry{Name: name, Value: value})
	}
}
