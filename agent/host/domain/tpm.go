package domain

import (
	"libvirt.org/go/libvirtxml"
)

// tpm adds an emulated TPM 2.0, whose secrets are lost when the instance ends. A
// persistent TPM is refused: a disk that is sealed to it could not be read after the
// next stop.
func tpm(c *conversion) {
	t := c.domain.Devices.TPM
	if t == nil || !enabled(t.Enabled, true) {
		return
	}
	if enabled(t.Persistent, false) {
		c.unsupported(c.root.Child("devices", "tpm", "persistent"), true, "its state is not kept when the instance ends")
	}
	c.out.Devices.TPMs = []libvirtxml.DomainTPM{{
		Model:   "tpm-tis",
		Backend: &libvirtxml.DomainTPMBackend{Emulator: &libvirtxml.DomainTPMBackendEmulator{Version: "2.0"}},
	}}
}
