package vmi

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

func validateDevices(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain", "devices")
	dev := &spec.Domain.Devices
	errs := validateInputs(at.Child("inputs"), dev.Inputs)
	names := map[string]bool{}
	for i, g := range dev.GPUs {
		errs = append(errs, validateHostDevice(at.Child("gpus").Index(i), g.Name, g.DeviceName, names)...)
	}
	for i, h := range dev.HostDevices {
		errs = append(errs, validateHostDevice(at.Child("hostDevices").Index(i), h.Name, h.DeviceName, names)...)
	}
	errs = append(errs, validateFilesystems(at.Child("filesystems"), spec)...)
	if s := dev.Sound; s != nil {
		if s.Name == "" {
			errs = append(errs, field.Required(at.Child("sound", "name"), "Sound device requires a name field."))
		}
		if s.Model != "" {
			errs = append(errs, oneOf(at.Child("sound", "model"), s.Model, []string{"ich9", "ac97"})...)
		}
	}
	if dev.Video != nil && dev.AutoattachGraphicsDevice != nil && !*dev.AutoattachGraphicsDevice {
		errs = append(errs, field.Forbidden(at.Child("video"), "Video configuration is not allowed when autoattachGraphicsDevice is set to false"))
	}
	if dev.Video != nil && dev.Video.Type != "" {
		errs = append(errs, oneOf(at.Child("video", "type"), dev.Video.Type, []string{"vga", "cirrus", kubevirtv1.VirtIO, "ramfb", "bochs"})...)
	}
	for i, p := range dev.PanicDevices {
		if p.Model != nil {
			errs = append(errs, oneOf(at.Child("panicDevices").Index(i).Child("model"), *p.Model,
				[]kubevirtv1.PanicDeviceModel{kubevirtv1.Hyperv, kubevirtv1.Isa, kubevirtv1.Pvpanic})...)
		}
	}
	return append(errs, validateWatchdog(at.Child("watchdog"), dev.Watchdog)...)
}

// validateWatchdog checks the watchdog of an instance with its defaults.
func validateWatchdog(at *field.Path, dog *kubevirtv1.Watchdog) field.ErrorList {
	if dog == nil {
		return nil
	}
	if dog.Diag288 != nil {
		return field.ErrorList{field.Forbidden(at.Child("diag288"), "only guests of s390x have this watchdog: use i6300esb")}
	}
	if dog.I6300ESB == nil {
		return nil // a template that has no defaults yet
	}
	return optional(at.Child("i6300esb", "action"), dog.I6300ESB.Action,
		kubevirtv1.WatchdogActionPoweroff, kubevirtv1.WatchdogActionReset, kubevirtv1.WatchdogActionShutdown)
}

func validateInputs(at *field.Path, inputs []kubevirtv1.Input) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, in := range inputs {
		p := at.Index(i)
		if in.Bus != "" {
			errs = append(errs, oneOf(p.Child("bus"), in.Bus, []kubevirtv1.InputBus{kubevirtv1.InputBusVirtio, kubevirtv1.InputBusUSB})...)
		}
		errs = append(errs, oneOf(p.Child("type"), in.Type, []kubevirtv1.InputType{kubevirtv1.InputTypeTablet, kubevirtv1.InputTypeKeyboard})...)
		if seen[in.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), in.Name))
		}
		seen[in.Name] = true
	}
	return errs
}

// validateHostDevice checks that a host device has a deviceName, which is the name of a
// resource with its domain, such as nvidia.com/T4, and a name that no other host device
// has.
func validateHostDevice(at *field.Path, name, device string, taken map[string]bool) field.ErrorList {
	var errs field.ErrorList
	switch {
	case name == "":
		errs = append(errs, field.Required(at.Child("name"), ""))
	case taken[name]:
		errs = append(errs, field.Duplicate(at.Child("name"), name))
	}
	taken[name] = true
	at = at.Child("deviceName")
	if device == "" {
		return append(errs, field.Required(at, ""))
	}
	for _, problem := range validation.IsQualifiedName(device) {
		errs = append(errs, field.Invalid(at, device, problem))
	}
	if !strings.Contains(device, "/") {
		errs = append(errs, field.Invalid(at, device, "must be the name of a resource with its domain, such as nvidia.com/T4"))
	}
	return errs
}

func validateFilesystems(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	volumes := map[string]bool{}
	for _, v := range spec.Volumes {
		volumes[v.Name] = true
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, f := range spec.Domain.Devices.Filesystems {
		name := at.Index(i).Child("name")
		switch {
		case seen[f.Name]:
			errs = append(errs, field.Duplicate(name, f.Name))
		case !volumes[f.Name]:
			errs = append(errs, field.Invalid(name, f.Name, "no volume of spec.volumes has this name"))
		}
		seen[f.Name] = true
		if f.Virtiofs == nil {
			errs = append(errs, field.Required(at.Index(i).Child("virtiofs"), ""))
		}
	}
	return errs
}
