package vmi

import (
	"encoding/base64"
	"path"
	"strings"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// machinePatterns are the machine types that guests of an architecture may have.
var machinePatterns = map[string][]string{
	"amd64": {"q35*", "pc-q35*"},
	"arm64": {"virt*"},
	"s390x": {"s390-ccw-virtio*"},
}

// validateSpec checks the spec of an instance, or of a template with its defaults.
func validateSpec(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	var errs field.ErrorList
	for _, check := range []func(*field.Path, *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList{
		validateMandatory,
		validateNames,
		validateMachine,
		validateFirmware,
		validateMemory,
		validateCPU,
		validatePinning,
		validateStart,
		validateEviction,
		validateProbes,
		validateNetworks,
		validateInterfaces,
		validateBootOrder,
		validateDisks,
		validateVolumes,
		validateClaims,
		validateDevices,
		validateAliases,
		validateClock,
		validateBehaviour,
		validateNotServed,
	} {
		errs = append(errs, check(at, spec)...)
	}
	return errs
}

func validateNames(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	var errs field.ErrorList
	if spec.Hostname != "" {
		errs = append(errs, messages(at.Child("hostname"), spec.Hostname, validation.IsDNS1123Label(spec.Hostname))...)
	}
	if spec.Subdomain != "" {
		errs = append(errs, messages(at.Child("subdomain"), spec.Subdomain, validation.IsDNS1123Subdomain(spec.Subdomain))...)
	}
	return errs
}

func validateMachine(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain", "machine", "type")
	machine := spec.Domain.Machine
	patterns := machinePatterns[spec.Architecture]
	if machine == nil || machine.Type == "" || patterns == nil {
		return nil
	}
	for _, p := range patterns {
		if ok, _ := path.Match(p, machine.Type); ok { // the patterns are well formed
			return nil
		}
	}
	return field.ErrorList{field.NotSupported(at, machine.Type, patterns)}
}

func validateFirmware(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	fw := spec.Domain.Firmware
	if fw == nil {
		return nil
	}
	at = at.Child("domain", "firmware")
	errs := validateUUID(at.Child("uuid"), string(fw.UUID))
	if fw.Bootloader != nil && fw.Bootloader.EFI != nil && fw.Bootloader.BIOS != nil {
		errs = append(errs, field.Invalid(at.Child("bootloader"), "efi and bios", "has both EFI and BIOS configured, but they are mutually exclusive"))
	}
	if smm := featureSMM(spec); SecureBoot(spec) && (smm == nil || smm.Enabled != nil && !*smm.Enabled) {
		errs = append(errs, field.Invalid(at.Child("bootloader", "efi", "secureBoot"), true, "SecureBoot needs spec.domain.features.smm enabled; set secureBoot to false to go without"))
	}
	return append(errs, validateKernelBoot(at.Child("kernelBoot"), fw.KernelBoot)...)
}

// validateUUID accepts the canonical form only, because the value is passed to the
// emulator as it is.
func validateUUID(at *field.Path, value string) field.ErrorList {
	if value == "" {
		return nil
	}
	if parsed, err := uuid.Parse(value); err != nil || !strings.EqualFold(parsed.String(), value) {
		return field.ErrorList{field.Invalid(at, value, "must be a UUID, as 5d307ca9-b3ef-428c-8861-06e72d69f223")}
	}
	return nil
}

func featureSMM(spec *kubevirtv1.VirtualMachineInstanceSpec) *kubevirtv1.FeatureState {
	if spec.Domain.Features == nil {
		return nil
	}
	return spec.Domain.Features.SMM
}

// validateKernelBoot checks that a kernel or initrd that is booted directly comes from
// a container image.
func validateKernelBoot(at *field.Path, boot *kubevirtv1.KernelBoot) field.ErrorList {
	if boot == nil {
		return nil
	}
	if boot.Container == nil {
		if boot.KernelArgs != "" {
			return field.ErrorList{field.Invalid(at.Child("kernelArgs"), boot.KernelArgs, "kernel arguments cannot be provided without an external kernel")}
		}
		return nil
	}
	var errs field.ErrorList
	c := boot.Container
	at = at.Child("container")
	errs = append(errs, ValidateImage(at.Child("image"), c.Image)...)
	if c.KernelPath == "" && c.InitrdPath == "" {
		errs = append(errs, field.Required(at, "at least one of kernelPath and initrdPath is required"))
	}
	errs = append(errs, validateImagePath(at.Child("kernelPath"), c.KernelPath)...)
	return append(errs, validateImagePath(at.Child("initrdPath"), c.InitrdPath)...)
}

// validateImagePath checks that p is an absolute path to a file and cannot lead out of
// the image.
func validateImagePath(at *field.Path, p string) field.ErrorList {
	switch {
	case p == "":
		return nil
	case p == "/":
		return field.ErrorList{field.Invalid(at, p, "must not point to root")}
	case path.Join("/", p) != strings.TrimSuffix(p, "/"):
		return field.ErrorList{field.Invalid(at, p, "must be an absolute path to a file without relative components")}
	}
	return nil
}

func validateStart(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("startStrategy")
	if spec.StartStrategy == nil {
		return nil
	}
	errs := oneOf(at, *spec.StartStrategy, []kubevirtv1.StartStrategy{kubevirtv1.StartStrategyPaused})
	if spec.LivenessProbe != nil {
		errs = append(errs, field.Invalid(at, *spec.StartStrategy, "pausing an instance with a livenessProbe is not supported"))
	}
	return errs
}

func validateEviction(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	var errs field.ErrorList
	if s := spec.EvictionStrategy; s != nil {
		errs = append(errs, oneOf(at.Child("evictionStrategy"), *s, []kubevirtv1.EvictionStrategy{
			kubevirtv1.EvictionStrategyNone, kubevirtv1.EvictionStrategyLiveMigrate,
			kubevirtv1.EvictionStrategyLiveMigrateIfPossible, kubevirtv1.EvictionStrategyExternal,
		})...)
	}
	if g := spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than or equal to 0"))
	}
	return errs
}

func validateProbes(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	errs := validateProbe(at.Child("readinessProbe"), spec, spec.ReadinessProbe)
	return append(errs, validateProbe(at.Child("livenessProbe"), spec, spec.LivenessProbe)...)
}

func validateProbe(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec, probe *kubevirtv1.Probe) field.ErrorList {
	if probe == nil {
		return nil
	}
	var errs field.ErrorList
	handlers := 0
	for _, set := range []bool{probe.HTTPGet != nil, probe.TCPSocket != nil, probe.Exec != nil, probe.GuestAgentPing != nil} {
		if set {
			handlers++
		}
	}
	switch {
	case handlers == 0:
		errs = append(errs, field.Required(at, "one of httpGet, tcpSocket, exec and guestAgentPing must be set"))
	case handlers > 1:
		errs = append(errs, field.Invalid(at, handlers, "must have exactly one probe type set"))
	}
	if podNetwork(spec) != nil {
		return errs
	}
	if probe.HTTPGet != nil {
		errs = append(errs, field.Forbidden(at.Child("httpGet"), "is only allowed if the Pod Network is attached"))
	}
	if probe.TCPSocket != nil {
		errs = append(errs, field.Forbidden(at.Child("tcpSocket"), "is only allowed if the Pod Network is attached"))
	}
	return errs
}

// base64Length returns the length of the decoded data, and false when data is not valid
// base64.
func base64Length(data string) (int, bool) {
	decoded, err := base64.StdEncoding.DecodeString(data)
	return len(decoded), err == nil
}

func isTrue(b *bool) bool { return b != nil && *b }
