package vmi

import (
	"math"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// stateClaimPrefix begins the names of the claims that StateClaim names, as KubeVirt
// names them.
const stateClaimPrefix = "persistent-state-for-"

// KeepsTPM reports whether the machine's TPM keeps its state when an instance ends.
func KeepsTPM(spec *kubevirtv1.VirtualMachineInstanceSpec) bool {
	tpm := spec.Domain.Devices.TPM
	return tpm != nil && isTrue(tpm.Persistent) && (tpm.Enabled == nil || *tpm.Enabled)
}

// KeepsVariables reports whether the machine's EFI firmware keeps its variables when an
// instance ends.
func KeepsVariables(spec *kubevirtv1.VirtualMachineInstanceSpec) bool {
	fw := spec.Domain.Firmware
	return fw != nil && fw.Bootloader != nil && fw.Bootloader.EFI != nil && isTrue(fw.Bootloader.EFI.Persistent)
}

// StateClaim returns the name of the PersistentVolumeClaim that says which host has what
// the TPM and the firmware of the machine called name keep; empty if they keep nothing.
func StateClaim(name string, spec *kubevirtv1.VirtualMachineInstanceSpec) string {
	if !KeepsTPM(spec) && !KeepsVariables(spec) {
		return ""
	}
	return BoundedName(stateClaimPrefix+name, validation.DNS1123SubdomainMaxLength)
}

// MayBeStateClaim reports whether StateClaim returns claim for some machine.
func MayBeStateClaim(claim string) bool { return strings.HasPrefix(claim, stateClaimPrefix) }

// validateKeptState refuses a new instance that keeps state. Its claim belongs to a
// VirtualMachine, which makes the instance itself.
func validateKeptState(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	const why = "only the TPM and the firmware of a VirtualMachine keep their state: create a VirtualMachine"
	var errs field.ErrorList
	if KeepsTPM(spec) {
		errs = append(errs, field.Forbidden(at.Child("domain", "devices", "tpm", "persistent"), why))
	}
	if KeepsVariables(spec) {
		errs = append(errs, field.Forbidden(at.Child("domain", "firmware", "bootloader", "efi", "persistent"), why))
	}
	return errs
}

// GracePeriod is how long the guest may take to shut down: 30 seconds if the instance does not
// say. A number of seconds that no Duration can hold stands for the longest one: the product
// would be negative.
func GracePeriod(spec *kubevirtv1.VirtualMachineInstanceSpec) time.Duration {
	const most = int64(math.MaxInt64 / time.Second)
	if seconds := spec.TerminationGracePeriodSeconds; seconds != nil {
		return time.Duration(min(*seconds, most)) * time.Second
	}
	return 30 * time.Second
}
