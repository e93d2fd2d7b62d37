package vmi

import (
	"strings"
	"time"
	_ "time/tzdata" // hosts agree on the names of time zones, whatever is installed on them

	"k8s.io/apimachinery/pkg/util/validation/field"
	kubevirtv1 "kubevirt.io/api/core/v1"
)

// validateMandatory checks the fields without which a guest cannot be started.
func validateMandatory(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	mem := at.Child("domain", "memory", "guest")
	if guestQuantity(spec) == nil {
		return field.ErrorList{field.Required(mem, "no memory requested, at least one of '"+mem.String()+"', '"+
			at.Child("domain", "memory", "hugepages", "pageSize").String()+"' or '"+at.Child("domain", "resources", "requests", "memory").String()+"' must be set")}
	}
	return nil
}

// validateClock checks values that the emulator would silently ignore: with a time zone
// that the emulator does not know, the clock would run at UTC.
func validateClock(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	clock := spec.Domain.Clock
	if clock == nil {
		return nil
	}
	at = at.Child("domain", "clock")
	var errs field.ErrorList
	if clock.UTC != nil && clock.Timezone != nil {
		errs = append(errs, field.Invalid(at, "utc and timezone", "utc and timezone are mutually exclusive"))
	}
	if zone := clock.Timezone; zone != nil && !knownZone(string(*zone)) {
		errs = append(errs, field.Invalid(at.Child("timezone"), *zone, "must be a time zone of the IANA database, as Europe/Berlin"))
	}
	if clock.Timer != nil {
		errs = append(errs, validateTimers(at.Child("timer"), clock.Timer)...)
	}
	return errs
}

func knownZone(name string) bool {
	if name == "" || name == "Local" || strings.Contains(name, `\`) {
		return false
	}
	_, err := time.LoadLocation(name)
	return err == nil
}

func validateTimers(at *field.Path, t *kubevirtv1.Timer) field.ErrorList {
	var errs field.ErrorList
	if t.RTC != nil {
		errs = append(errs, optional(at.Child("rtc", "tickPolicy"), t.RTC.TickPolicy, kubevirtv1.RTCTickPolicyDelay, kubevirtv1.RTCTickPolicyCatchup)...)
		errs = append(errs, optional(at.Child("rtc", "track"), t.RTC.Track, kubevirtv1.TrackGuest, kubevirtv1.TrackWall)...)
	}
	if t.PIT != nil {
		errs = append(errs, optional(at.Child("pit", "tickPolicy"), t.PIT.TickPolicy,
			kubevirtv1.PITTickPolicyDelay, kubevirtv1.PITTickPolicyCatchup, kubevirtv1.PITTickPolicyDiscard)...)
	}
	if t.HPET != nil {
		errs = append(errs, optional(at.Child("hpet", "tickPolicy"), t.HPET.TickPolicy, kubevirtv1.HPETTickPolicyDelay,
			kubevirtv1.HPETTickPolicyCatchup, kubevirtv1.HPETTickPolicyMerge, kubevirtv1.HPETTickPolicyDiscard)...)
	}
	return errs
}

// validateBehaviour checks what the guest and its emulator do.
func validateBehaviour(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain")
	var errs field.ErrorList
	if p := spec.Domain.RebootPolicy; p != nil {
		errs = append(errs, oneOf(at.Child("rebootPolicy"), *p, []kubevirtv1.RebootPolicy{kubevirtv1.RebootPolicyReboot, kubevirtv1.RebootPolicyTerminate})...)
	}
	p := spec.Domain.IOThreadsPolicy
	if p == nil {
		return errs
	}
	errs = append(errs, oneOf(at.Child("ioThreadsPolicy"), *p, []kubevirtv1.IOThreadsPolicy{
		kubevirtv1.IOThreadsPolicyShared, kubevirtv1.IOThreadsPolicyAuto, kubevirtv1.IOThreadsPolicySupplementalPool})...)
	if threads := spec.Domain.IOThreads; *p == kubevirtv1.IOThreadsPolicySupplementalPool &&
		(threads == nil || threads.SupplementalPoolThreadCount == nil || *threads.SupplementalPoolThreadCount < 1) {
		errs = append(errs, field.Required(at.Child("ioThreads", "supplementalPoolThreadCount"), "must be at least 1 when ioThreadsPolicy is supplementalPool"))
	}
	return errs
}

// validateNotServed refuses features that no host of this version can give a guest.
// Without this check the guest would fail when it starts.
func validateNotServed(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain")
	var errs field.ErrorList
	refuse := func(set bool, why string, path ...string) {
		if set {
			errs = append(errs, field.Forbidden(at.Child(path[0], path[1:]...), why))
		}
	}
	dev := &spec.Domain.Devices
	refuse(dev.ClientPassthrough != nil, "USB devices of a client cannot be redirected in this version", "devices", "clientPassthrough")
	refuse(dev.DownwardMetrics != nil, "metrics of the host are not shown to guests in this version", "devices", "downwardMetrics")
	refuse(spec.Domain.LaunchSecurity != nil, "guests with encrypted memory are not supported in this version", "launchSecurity")
	refuse(spec.Domain.Firmware != nil && spec.Domain.Firmware.ACPI != nil, "ACPI tables cannot be added in this version", "firmware", "acpi")
	if cpu := spec.Domain.CPU; cpu != nil && cpu.NUMA != nil {
		refuse(cpu.NUMA.GuestMappingPassthrough != nil, "the host's memory nodes cannot be shown to the guest in this version", "cpu", "numa", "guestMappingPassthrough")
	}
	return errs
}

// validateAliases checks that the names of devices of all kinds differ: the emulator
// identifies devices by name only.
func validateAliases(at *field.Path, spec *kubevirtv1.VirtualMachineInstanceSpec) field.ErrorList {
	at = at.Child("domain", "devices")
	var errs field.ErrorList
	sorts := map[string]string{}
	check := func(p *field.Path, sort, name string) {
		if had, ok := sorts[name]; ok && had != sort && name != "" {
			errs = append(errs, field.Invalid(p, name, "the name is that of one of "+had+" already, and devices need different names"))
		}
		sorts[name] = sort
	}
	dev := &spec.Domain.Devices
	for i, d := range dev.Disks {
		check(at.Child("disks").Index(i).Child("name"), "disks", d.Name)
	}
	for i, n := range dev.Interfaces {
		check(at.Child("interfaces").Index(i).Child("name"), "interfaces", n.Name)
	}
	for i, f := range dev.Filesystems {
		check(at.Child("filesystems").Index(i).Child("name"), "filesystems", f.Name)
	}
	for i, g := range dev.GPUs {
		check(at.Child("gpus").Index(i).Child("name"), "gpus", g.Name)
	}
	for i, h := range dev.HostDevices {
		check(at.Child("hostDevices").Index(i).Child("name"), "hostDevices", h.Name)
	}
	for i, n := range dev.Inputs {
		check(at.Child("inputs").Index(i).Child("name"), "inputs", n.Name)
	}
	if dev.Sound != nil {
		check(at.Child("sound", "name"), "sound", dev.Sound.Name)
	}
	if dev.Watchdog != nil {
		check(at.Child("watchdog", "name"), "watchdog", dev.Watchdog.Name)
	}
	return errs
}

// optional is oneOf for a field that may be empty.
func optional[T ~string](path *field.Path, value T, known ...T) field.ErrorList {
	if value == "" {
		return nil
	}
	return oneOf(path, value, known)
}
