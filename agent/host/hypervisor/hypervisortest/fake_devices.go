package hypervisortest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"virtmesh/agent/host/hypervisor"
)

// A Fake's guest behaves to devices as one without an operating system does: it sees
// what is plugged in, and lets go of what it is asked for when it reboots. LetGo and
// KeepDevice play another guest.

// onRunning runs fn on ref's domain while its guest runs.
func (f *Fake) onRunning(ctx context.Context, method string, ref hypervisor.Ref, fn func(*Machine, *fakeDomain) error) error {
	return f.on(ctx, method, ref, func(m *Machine, d *fakeDomain) error {
		if !d.state.Active() {
			return hypervisor.ErrNotRunning
		}
		return fn(m, d)
	})
}

func (d *fakeDomain) device(name string) int {
	return slices.IndexFunc(d.devices, func(v fakeDevice) bool { return v.name == name })
}

// AttachDevice implements hypervisor.Devices.
func (f *Fake) AttachDevice(ctx context.Context, ref hypervisor.Ref, device string) error {
	return f.onRunning(ctx, "AttachDevice", ref, func(_ *Machine, d *fakeDomain) error {
		plugged, err := parseDevice(device)
		if err != nil {
			return err
		}
		if d.device(plugged.name) >= 0 {
			return nil
		}
		if err := missingFile(plugged); err != nil {
			return err
		}
		d.devices = append(d.devices, plugged)
		return nil
	})
}

// missingFile fails for a device whose file plays one that is not there.
func missingFile(device fakeDevice) error {
	if !strings.HasSuffix(device.file, MissingSuffix) {
		return nil
	}
	return &hypervisor.Fault{
		Code:     hypervisor.FaultDiskMissing,
		Sentence: "the file or device behind a disk does not exist",
	}
}

// DetachDevice implements hypervisor.Devices.
func (f *Fake) DetachDevice(ctx context.Context, ref hypervisor.Ref, name string) error {
	return f.onRunning(ctx, "DetachDevice", ref, func(_ *Machine, d *fakeDomain) error {
		if i := d.device(name); i >= 0 {
			d.devices[i].releasing = true
		}
		return nil
	})
}

// UpdateDevice implements hypervisor.Devices.
func (f *Fake) UpdateDevice(ctx context.Context, ref hypervisor.Ref, device string) error {
	return f.onRunning(ctx, "UpdateDevice", ref, func(_ *Machine, d *fakeDomain) error {
		changed, err := parseDevice(device)
		if err != nil {
			return err
		}
		i := d.device(changed.name)
		if i < 0 {
			return fmt.Errorf("%w: %s", hypervisor.ErrNoDevice, changed.name)
		}
		if d.devices[i].kind != changed.kind {
			return fmt.Errorf("%w: %s is a %s", hypervisor.ErrUnsupported, changed.name, d.devices[i].kind)
		}
		d.devices[i] = changed
		return nil
	})
}

// LiveDefinition implements hypervisor.Devices. It is the definition that the domain
// was started from, with the devices and sizes of now.
func (f *Fake) LiveDefinition(ctx context.Context, ref hypervisor.Ref) (out string, err error) {
	err = f.onRunning(ctx, "LiveDefinition", ref, func(_ *Machine, d *fakeDomain) error {
		out = d.live()
		return nil
	})
	return out, err
}

func (d *fakeDomain) live() string {
	var devices strings.Builder
	for _, device := range d.devices {
		devices.WriteString(device.text)
	}
	return d.sizes.write(replaceContent(d.xml, "devices", devices.String()))
}

// replaceContent puts content into the first element called name, with its attributes.
func replaceContent(text, name, content string) string {
	open := strings.Index(text, "<"+name)
	end := strings.Index(text, "</"+name+">")
	if open < 0 || end < open {
		return text
	}
	start := open + strings.IndexByte(text[open:], '>') + 1
	return text[:start] + content + text[end:]
}

// LetGo makes a guest release a device that it was asked for.
func (m *Machine) LetGo(ref hypervisor.Ref, name string) error {
	return m.do(ref, func(d *fakeDomain) {
		if i := d.device(name); i >= 0 && d.devices[i].releasing {
			m.remove(d, i)
		}
	})
}

// KeepDevice makes a guest refuse to release a device that it was asked for.
func (m *Machine) KeepDevice(ref hypervisor.Ref, name string) error {
	return m.do(ref, func(d *fakeDomain) {
		if i := d.device(name); i >= 0 && d.devices[i].releasing {
			d.devices[i].releasing = false
			m.publish(d, hypervisor.Event{Kind: hypervisor.EventDeviceKept, Device: name})
		}
	})
}

func (m *Machine) remove(d *fakeDomain, i int) {
	name := d.devices[i].name
	d.devices = slices.Delete(d.devices, i, i+1)
	m.publish(d, hypervisor.Event{Kind: hypervisor.EventDeviceRemoved, Device: name})
}

// releaseAll removes what the guest has been asked for, as a reboot does.
func (m *Machine) releaseAll(d *fakeDomain) {
	for i := len(d.devices) - 1; i >= 0; i-- {
		if d.devices[i].releasing {
			m.remove(d, i)
		}
	}
}
