package domain

import (
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// serialConsole adds the first serial port. The host opens its other end through the
// hypervisor. The guest's output also goes to a log.
func serialConsole(c *conversion) {
	d := c.domain.Devices
	if !enabled(d.AutoattachSerialConsole, true) {
		return
	}
	port := uint(0)
	serial := libvirtxml.DomainSerial{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainSerialTarget{Port: &port},
	}
	if c.Paths.SerialLog != "" && enabled(d.LogSerialConsole, true) {
		serial.Log = &libvirtxml.DomainChardevLog{File: c.Paths.SerialLog, Append: "on"}
	}
	c.out.Devices.Serials = []libvirtxml.DomainSerial{serial}
	c.out.Devices.Consoles = []libvirtxml.DomainConsole{{
		Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}},
		Target: &libvirtxml.DomainConsoleTarget{Type: "serial", Port: &port},
	}}
}

// channels adds the channel to the guest's agent. libvirt chooses a socket that only
// libvirt and the guest's user can reach.
func channels(c *conversion) {
	c.out.Devices.Channels = []libvirtxml.DomainChannel{{
		Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: hypervisor.AgentChannel}},
	}}
}
