package domain

import (
	"libvirt.org/go/libvirtxml"

	machine "virtmesh/agent/vmi"
)

// tpm adds an emulated TPM 2.0. Its secrets are lost when the instance ends, unless the
// VMI keeps them: then libvirt finds them by the domain's UUID.
func tpm(c *conversion) {
	if !hasTPM(c) {
		return
	}
	emulator := &libvirtxml.DomainTPMBackendEmulator{Version: "2.0"}
	if machine.KeepsTPM(&c.VMI.Spec) {
		emulator.PersistentState = "yes"
	}
	c.out.Devices.TPMs = []libvirtxml.DomainTPM{{
		Model:   "tpm-tis",
		Backend: &libvirtxml.DomainTPMBackend{Emulator: emulator},
	}}
}

func hasTPM(c *conversion) bool {
	t := c.domain.Devices.TPM
	return t != nil && enabled(t.Enabled, true)
}
