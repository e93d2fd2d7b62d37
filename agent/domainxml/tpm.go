package domainxml

import (
	"libvirt.org/go/libvirtxml"
)

// tpm adds an emulated TPM 2.0. A persistent one keeps its secrets while the domain
// is shut off.
func tpm(c *conversion) {
	t := c.domain.Devices.TPM
	if t == nil || !enabled(t.Enabled, true) {
		return
	}
	if !c.Machine.TPM {
		c.unsupported(c.root.Child("devices", "tpm"), nil, "no TPM emulator is installed on this host")
		return
	}
	out := libvirtxml.DomainTPM{
		Model:   "tpm-tis",
		Backend: &libvirtxml.DomainTPMBackend{Emulator: &libvirtxml.DomainTPMBackendEmulator{Version: "2.0"}},
	}
	if enabled(t.Persistent, false) {
		out.Model = "tpm-crb"
		out.Backend.Emulator.PersistentState = "yes"
	}
	c.out.Devices.TPMs = []libvirtxml.DomainTPM{out}
}
