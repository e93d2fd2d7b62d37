package domain

import (
	v1 "kubevirt.io/api/core/v1"
	"libvirt.org/go/libvirtxml"
)

// watchdog adds a timer that acts when the guest stops resetting it.
func watchdog(c *conversion) {
	w := c.domain.Devices.Watchdog
	if w == nil {
		return
	}
	path := c.root.Child("devices", "watchdog")
	if w.Diag288 != nil {
		c.unsupported(path.Child("diag288"), nil, "only guests of s390x have it")
		return
	}
	if w.I6300ESB == nil {
		c.invalid(path, w.Name, "names no device: set i6300esb")
		return
	}
	action := w.I6300ESB.Action
	switch action {
	case "":
		action = v1.WatchdogActionReset
	case v1.WatchdogActionPoweroff, v1.WatchdogActionReset, v1.WatchdogActionShutdown:
	default:
		c.invalid(path.Child("i6300esb", "action"), action, "must be poweroff, reset or shutdown")
	}
	c.out.Devices.Watchdogs = []libvirtxml.DomainWatchdog{{
		Model: "i6300esb", Action: string(action), Alias: userAlias(w.Name),
	}}
}
