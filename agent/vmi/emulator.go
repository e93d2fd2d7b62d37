package vmi

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	kubevirtv1 "kubevirt.io/api/core/v1"
)

// Emulator is what guests can be given on a host besides its CPU model. It is told
// to the mesh by labels of the host's Node.
type Emulator struct {
	// MachineTypes are the names that a manifest may say, sorted; empty if they are
	// not known.
	MachineTypes []string
	// MaxVCPUs is the most CPUs of a guest; zero if it is not known.
	MaxVCPUs int
	// EFI and SecureBoot say which firmware is installed, TPM whether there is an
	// emulator of one.
	EFI, SecureBoot, TPM bool
}

// Needs is what an instance needs of an Emulator. It crosses the wire as JSON.
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
		secure := f.Bootloader.EFI.SecureBoot
		n.EFI, n.SecureBoot = true, secure == nil || *secure
	}
	if t := spec.Domain.Devices.TPM; t != nil {
		n.TPM = t.Enabled == nil || *t.Enabled
	}
	return n
}

// MachineType returns the machine type that an instance starts with, empty if it
// names none: the one that its first start recorded in the status, so that the
// guest finds the same hardware however often and wherever it starts, or else the
// one of its spec, which may be an alias as q35.
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
	// Field is the need's, below spec.domain, and Value what it asks for.
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

// EmulatorOf reads what SetLabels wrote. ok is false if it wrote nothing: then
// nothing is known of the host.
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
