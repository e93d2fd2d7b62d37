package domain

import (
	"libvirt.org/go/libvirtxml"
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
	secure := enabled(f.Bootloader.EFI.SecureBoot, true)
	if enabled(f.Bootloader.EFI.Persistent, false) {
		c.unsupported(path.Child("persistent"), true, "the firmware's variables are not kept when the instance ends")
	}
	c.out.OS.Firmware = "efi"
	c.out.OS.FirmwareInfo = &libvirtxml.DomainOSFirmwareInfo{Features: []libvirtxml.DomainOSFirmwareFeature{
		{Name: "secure-boot", Enabled: yesNo(secure)},
		{Name: "enrolled-keys", Enabled: yesNo(secure)},
	}}
}

// secureBoot says whether the guest's firmware verifies what it starts.
func (c *conversion) secureBoot() bool {
	f := c.domain.Firmware
	return f != nil && f.Bootloader != nil && f.Bootloader.EFI != nil && enabled(f.Bootloader.EFI.SecureBoot, true)
}
