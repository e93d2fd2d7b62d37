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

// channels adds the channel to the guest's agent. Its socket is where only root comes:
// where libvirt would put it, every emulator of the host could connect, since all have
// one group.
func channels(c *conversion) {
	socket := &libvirtxml.DomainChardevSourceUNIX{}
	if c.Paths.AgentSocket != "" {
		socket.Mode, socket.Path = "bind", c.Paths.AgentSocket
	}
	c.out.Devices.Channels = []libvirtxml.DomainChannel{{
		Source: &libvirtxml.DomainChardevSource{UNIX: socket},
		Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: hypervisor.AgentChannel}},
	}}
}
