package domain

import (
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// firmware chooses between BIOS and EFI. With EFI, libvirt finds the firmware image by
// the features that the domain asks for, so this package needs no distribution's paths.
func firmware(c *conversion) {
	f := c.domain.Firmware
	if f == nil {
		return
	}
	path := c.root.Child("firmware")
	if f.ACPI != nil {
		c.unsupported(path.Child("acpi"), nil, "ACPI tables cannot be added")
	}
	if f.Bootloader == nil {
		return
	}
	if bios := f.Bootloader.BIOS; bios != nil {
		if f.Bootloader.EFI != nil {
			c.invalid(path.Child("bootloader"), nil, "bios and efi exclude each other")
			return
		}
		if enabled(bios.UseSerial, false) {
			c.out.OS.BIOS = &libvirtxml.DomainBIOS{UseSerial: "yes"}
		}
	}
	if f.Bootloader.EFI == nil {
		return
	}
	path = path.Child("bootloader", "efi")
	secure := machine.SecureBoot(&c.VMI.Spec)
	if machine.KeepsVariables(&c.VMI.Spec) {
		if c.Paths.Variables == "" {
			c.unsupported(path.Child("persistent"), true, "this host has no place for the firmware's variables")
		}
		c.out.OS.NVRam = &libvirtxml.DomainNVRam{NVRam: c.Paths.Variables}
	}
	c.out.OS.Firmware = "efi"
	c.out.OS.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{
		{Name: "secure-boot", Enabled: yesNo(secure)},
		{Name: "enrolled-keys", Enabled: yesNo(secure)},
	}}
}
