package domain

import (
	"libvirt.org/go/libvirtxml"
)

// clock sets the hardware clock and the timers the guest may use.
func clock(c *conversion) {
	spec := c.domain.Clock
	if spec == nil {
		return
	}
	out := &libvirtxml.DomainClock{}
	switch {
	case spec.UTC != nil && spec.Timezone != nil:
		c.invalid(c.root.Child("clock"), nil, "utc and timezone exclude each other")
	case spec.Timezone != nil:
		out.Offset, out.TimeZone = "timezone", string(*spec.Timezone)
	case spec.UTC != nil && spec.UTC.OffsetSeconds != nil:
		out.Offset, out.Adjustment = "variable", itoa(*spec.UTC.OffsetSeconds)
		out.Basis = "utc"
	default:
		out.Offset = "utc"
	}
	timers(c, out)
	c.out.Clock = out
}

func timers(c *conversion, out *libvirtxml.DomainClock) {
	t := c.domain.Clock.Timer
	if t == nil {
		return
	}
	add := func(name string, present *bool, tickPolicy, track string) {
		out.Timer = append(out.Timer, libvirtxml.DomainTimer{
			Name: name, Present: yesNo(enabled(present, true)), TickPolicy: tickPolicy, Track: track,
		})
	}
	if t.RTC != nil {
		add("rtc", t.RTC.Enabled, string(t.RTC.TickPolicy), string(t.RTC.Track))
	}
	if t.PIT != nil {
		add("pit", t.PIT.Enabled, string(t.PIT.TickPolicy), "")
	}
	if t.HPET != nil {
		add("hpet", t.HPET.Enabled, string(t.HPET.TickPolicy), "")
	}
	path := c.root.Child("clock", "timer")
	if t.KVM != nil {
		if c.Machine.KVM {
			add("kvmclock", t.KVM.Enabled, "", "")
		} else if enabled(t.KVM.Enabled, true) {
			c.warn(path.Child("kvm"), "left out: this host emulates CPUs")
		}
	}
	if t.Hyperv != nil {
		if c.Machine.KVM {
			add("hypervclock", t.Hyperv.Enabled, "", "")
		} else if enabled(t.Hyperv.Enabled, true) {
			c.warn(path.Child("hyperv"), "left out: this host emulates CPUs")
		}
	}
}
