package vmi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Emulator describes what the emulator of a host can give guests, apart from CPU
// models. Each host publishes it in labels of its Node.
type Emulator struct {
	// MachineTypes are the names that a manifest may use, sorted; empty if they are not
	// known.
	MachineTypes []string
	// MaxVCPUs is the most CPUs of a guest; zero if it is not known.
	MaxVCPUs int
	// EFI and SecureBoot say which firmware is installed. TPM says whether a TPM
	// emulator is installed.
	EFI, SecureBoot, TPM bool
}

// Needs is what an instance requires of an Emulator. It crosses the wire as JSON.
type Needs struct {
	MachineType string `json:"machineType,omitempty"`
	VCPUs       int    `json:"vcpus,omitempty"`
	EFI         bool   `json:"efi,omitempty"`
	SecureBoot  bool   `json:"secureBoot,omitempty"`
	TPM         bool   `json:"tpm,omitempty"`
}

// NeedsOf returns what an instance needs.
func NeedsOf(vmi *kubevirtv1.VirtualMachineInstance) Needs {
	spec := &vmi.Spec
	n := Needs{MachineType: MachineType(vmi), VCPUs: TopologyOf(spec).VCPUs()}
	if f := spec.Domain.Firmware; f != nil && f.Bootloader != nil && f.Bootloader.EFI != nil {
		n.EFI, n.SecureBoot = true, SecureBoot(spec)
	}
	if t := spec.Domain.Devices.TPM; t != nil {
		n.TPM = t.Enabled == nil || *t.Enabled
	}
	return n
}

// SecureBoot reports whether the machine's firmware verifies what it starts.
func SecureBoot(spec *kubevirtv1.VirtualMachineInstanceSpec) bool {
	f := spec.Domain.Firmware
	if f == nil || f.Bootloader == nil || f.Bootloader.EFI == nil {
		return false
	}
	secure := f.Bootloader.EFI.SecureBoot
	return secure == nil || *secure
}

// MachineType returns the machine type that an instance starts with, empty if it names
// none: the type that its first start recorded in the status, or else the type in its
// spec, which may be an alias such as q35. The recorded type gives the guest the same
// hardware at every start and on every host.
func MachineType(vmi *kubevirtv1.VirtualMachineInstance) string {
	if m := vmi.Status.Machine; m != nil && m.Type != "" {
		return m.Type
	}
	if m := vmi.Spec.Domain.Machine; m != nil {
		return m.Type
	}
	return ""
}

// Lack is a need that an emulator does not meet.
type Lack struct {
	// Field is the path of the field below spec.domain that has the need, and Value the
	// field's value.
	Field string
	Value any
	// What is missing, as in "this host has no ...".
	What string
}

// Lacks returns the needs that e does not meet, in the order of the Needs' fields.
func (e Emulator) Lacks(n Needs) []Lack {
	var out []Lack
	if n.MachineType != "" && len(e.MachineTypes) > 0 {
		if _, ok := slices.BinarySearch(e.MachineTypes, n.MachineType); !ok {
			out = append(out, Lack{"machine.type", n.MachineType, "machine type " + n.MachineType})
		}
	}
	if e.MaxVCPUs > 0 && n.VCPUs > e.MaxVCPUs {
		out = append(out, Lack{"cpu", n.VCPUs, fmt.Sprintf("machine with %d CPUs", n.VCPUs)})
	}
	switch {
	case n.EFI && !e.EFI:
		out = append(out, Lack{"firmware.bootloader.efi", nil, "EFI firmware"})
	case n.SecureBoot && !e.SecureBoot:
		out = append(out, Lack{"firmware.bootloader.efi.secureBoot", true, "EFI firmware with secure boot"})
	}
	if n.TPM && !e.TPM {
		out = append(out, Lack{"devices.tpm", nil, "TPM emulator"})
	}
	return out
}

const (
	labelMaxVCPUs   = "virtmesh.io/max-vcpus"
	labelEFI        = "virtmesh.io/efi"
	labelSecureBoot = "virtmesh.io/secure-boot"
	labelTPM        = "virtmesh.io/tpm"
)

// SetLabels writes e into the labels of its host's Node.
func (e Emulator) SetLabels(labels map[string]string) {
	for _, m := range e.MachineTypes {
		labels[kubevirtv1.SupportedMachineTypeLabel+m] = "true"
	}
	labels[labelMaxVCPUs] = strconv.Itoa(e.MaxVCPUs)
	labels[labelEFI], labels[labelSecureBoot] = strconv.FormatBool(e.EFI), strconv.FormatBool(e.SecureBoot)
	labels[labelTPM] = strconv.FormatBool(e.TPM)
}

// EmulatorOf reads the labels that SetLabels wrote. ok is false if there are none: then
// nothing is known of the host's emulator.
func EmulatorOf(labels map[string]string) (e Emulator, ok bool) {
	limit, ok := labels[labelMaxVCPUs]
	if !ok {
		return Emulator{}, false
	}
	e.MaxVCPUs, _ = strconv.Atoi(limit) // zero, for not known, if it is no number
	e.EFI, e.SecureBoot, e.TPM = labels[labelEFI] == "true", labels[labelSecureBoot] == "true", labels[labelTPM] == "true"
	for key, value := range labels {
		if m, found := strings.CutPrefix(key, kubevirtv1.SupportedMachineTypeLabel); found && value == "true" {
			e.MachineTypes = append(e.MachineTypes, m)
		}
	}
	slices.Sort(e.MachineTypes)
	return e, true
}
