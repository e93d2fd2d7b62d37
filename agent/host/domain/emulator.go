package domain

import (
	"slices"
	"strings"

	machine "virtmesh/agent/vmi"
)

// Emulates returns what the host's emulator can give guests, apart from CPU models.
func (h HostInfo) Emulates() machine.Emulator {
	limit := machine.MaxVCPUsWithoutIOMMU
	if h.MaxCPUs > 0 {
		limit = min(limit, h.MaxCPUs)
	}
	return machine.Emulator{
		MachineTypes: slices.Sorted(slices.Values(h.MachineTypes)), MaxVCPUs: limit,
		EFI: h.EFI, SecureBoot: h.SecureBoot, TPM: h.TPM,
	}
}

// emulator refuses what this host cannot emulate. Placement compares the same needs
// with what the host published, so this refusal occurs only if the host has changed
// since then.
func emulator(c *conversion) {
	for _, lack := range c.Machine.Emulates().Lacks(machine.NeedsOf(c.VMI)) {
		path := c.root
		for name := range strings.SplitSeq(lack.Field, ".") {
			path = path.Child(name)
		}
		c.unsupported(path, lack.Value, "this host has no %s", lack.What)
	}
}
