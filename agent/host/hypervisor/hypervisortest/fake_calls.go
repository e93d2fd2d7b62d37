package hypervisortest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"virtmesh/agent/host/hypervisor"
)

// Capabilities implements hypervisor.Inventory.
func (f *Fake) Capabilities(ctx context.Context) (hypervisor.Capabilities, error) {
	if err := f.enter(ctx, "Capabilities"); err != nil {
		return hypervisor.Capabilities{}, err
	}
	defer f.machine.mu.Unlock()
	return f.machine.caps, nil
}

// List implements hypervisor.Inventory.
func (f *Fake) List(ctx context.Context) ([]hypervisor.Domain, error) {
	if err := f.enter(ctx, "List"); err != nil {
		return nil, err
	}
	defer f.machine.mu.Unlock()
	var ours []hypervisor.Domain
	for _, d := range f.machine.domains {
		if d.ours {
			ours = append(ours, d.describe())
		}
	}
	return ours, nil
}

// Get implements hypervisor.Inventory.
func (f *Fake) Get(ctx context.Context, ref hypervisor.Ref) (out hypervisor.Domain, err error) {
	err = f.on(ctx, "Get", ref, func(_ *Machine, d *fakeDomain) error {
		out = d.describe()
		return nil
	})
	return out, err
}

func (d *fakeDomain) describe() hypervisor.Domain {
	out := hypervisor.Domain{
		Owner: d.owner, UUID: d.uuid, State: d.state, Reason: d.reason,
		AgentConnected: d.agent != nil, Records: maps.Clone(d.records), Persistent: true,
	}
	if !d.state.Active() {
		return out
	}
	out.MemoryBytes, out.MemoryLimit = d.sizes.memory, d.sizes.limit
	for _, device := range d.devices {
		if device.kind != "disk" || device.name == "" {
			continue
		}
		if out.Disks == nil {
			out.Disks = map[string]string{}
		}
		out.Disks[device.name] = device.target
	}
	return out
}

// Start implements hypervisor.Lifecycle.
func (f *Fake) Start(ctx context.Context, xml string, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	if err := f.enter(ctx, "Start"); err != nil {
		return hypervisor.Domain{}, fmt.Errorf("start domain: %w", err)
	}
	defer f.machine.mu.Unlock()
	d, err := f.machine.start(xml, opts)
	if err != nil {
		return hypervisor.Domain{}, fmt.Errorf("start domain: %w", err)
	}
	return d.describe(), nil
}

func (m *Machine) start(xml string, opts hypervisor.StartOptions) (*fakeDomain, error) {
	def, devices, owner, err := parse(xml)
	if err != nil {
		return nil, err
	}
	if err := m.conflict(def); err != nil {
		return nil, err
	}
	d, exists := m.domains[def.Name]
	if exists {
		if !d.ours || d.owner.Ref != owner.Ref {
			return nil, fmt.Errorf("%w: %s", hypervisor.ErrConflict, def.Name)
		}
		if d.state.Active() {
			return d, nil
		}
		if def.UUID != d.uuid {
			m.dropFirmwareState(def.Name, d.uuid, hypervisor.UndefineOptions{KeepNVRAM: true, KeepTPM: d.owner.KeepTPM})
		}
	}
	if def.UUID == "" {
		def.UUID = rand.Text()
	}
	m.makeFirmwareState(def, devices)
	for _, device := range devices {
		if err := missingFile(device); err != nil {
			if !exists {
				m.dropFirmwareState(def.Name, def.UUID, hypervisor.UndefineOptions{KeepNVRAM: opts.KeepNVRAM, KeepTPM: opts.KeepTPM})
			}
			return nil, err
		}
	}
	if !exists {
		d = &fakeDomain{}
		m.domains[def.Name] = d
	}
	*d = def.define(owner, devices, xml)
	d.started = time.Now()
	d.serial = newFakeSerial(func(command byte) { m.obey(d, command) })
	m.setState(d, hypervisor.StateRunning, hypervisor.ReasonBooted)
	if opts.Paused {
		m.setState(d, hypervisor.StatePaused, hypervisor.ReasonUser)
	} else {
		d.serial.print(Ready)
	}
	return d, nil
}

// makeFirmwareState makes what a start makes, where it is not there yet.
func (m *Machine) makeFirmwareState(def definition, devices []fakeDevice) {
	if def.OS.Firmware == "efi" || def.OS.NVRAM != "" {
		m.nvram[def.Name] = true
	}
	for _, device := range devices {
		if device.persistentTPM {
			m.tpm[def.UUID] = true
		}
	}
}

func (m *Machine) dropFirmwareState(name, uuid string, opts hypervisor.UndefineOptions) {
	if !opts.KeepNVRAM {
		delete(m.nvram, name)
	}
	if !opts.KeepTPM {
		delete(m.tpm, uuid)
	}
}

// obey does what a guest is told through its console. It takes the machine's lock.
func (m *Machine) obey(d *fakeDomain, command byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d.state != hypervisor.StateRunning {
		return
	}
	switch string(command) {
	case CmdPowerOff:
		d.serial.print(Bye)
		m.end(d, hypervisor.ReasonShutdown)
	case CmdReset:
		m.reboot(d)
	default:
		d.serial.print(string(command))
	}
}

func (m *Machine) reboot(d *fakeDomain) {
	d.frozen = false
	m.releaseAll(d)
	m.publish(d, hypervisor.Event{Kind: hypervisor.EventReboot})
	d.serial.print(Ready)
}

// Shutdown implements hypervisor.Lifecycle. A guest whose file systems are frozen cannot shut down.
func (f *Fake) Shutdown(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "Shutdown", ref, func(m *Machine, d *fakeDomain) error {
		if d.state == hypervisor.StateRunning && !d.deaf && !d.frozen {
			d.serial.print(Bye)
			m.end(d, hypervisor.ReasonShutdown)
		}
		return nil
	})
}

// Reboot implements hypervisor.Lifecycle.
func (f *Fake) Reboot(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "Reboot", ref, func(m *Machine, d *fakeDomain) error {
		if !d.state.Active() {
			return hypervisor.ErrNotRunning
		}
		d.serial.print(Bye)
		m.reboot(d)
		return nil
	})
}

// Reset implements hypervisor.Lifecycle.
func (f *Fake) Reset(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "Reset", ref, func(m *Machine, d *fakeDomain) error {
		if !d.state.Active() {
			return hypervisor.ErrNotRunning
		}
		m.reboot(d)
		return nil
	})
}

// Destroy implements hypervisor.Lifecycle.
func (f *Fake) Destroy(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "Destroy", ref, func(m *Machine, d *fakeDomain) error {
		if d.state.Active() {
			m.end(d, hypervisor.ReasonDestroyed)
		}
		return nil
	})
}

// RemoveTPM implements hypervisor.Lifecycle.
func (f *Fake) RemoveTPM(ctx context.Context, uuid string) error {
	if err := f.enter(ctx, "RemoveTPM"); err != nil {
		return fmt.Errorf("RemoveTPM %s: %w", uuid, err)
	}
	defer f.machine.mu.Unlock()
	for name, d := range f.machine.domains {
		if d.uuid == uuid {
			return fmt.Errorf("RemoveTPM %s: %w: %s has the uuid", uuid, hypervisor.ErrConflict, name)
		}
	}
	delete(f.machine.tpm, uuid)
	return nil
}

// HasTPM implements hypervisor.Lifecycle.
func (f *Fake) HasTPM(ctx context.Context, uuid string) (bool, error) {
	if err := f.enter(ctx, "HasTPM"); err != nil {
		return false, fmt.Errorf("HasTPM %s: %w", uuid, err)
	}
	defer f.machine.mu.Unlock()
	return f.machine.tpm[uuid], nil
}

// Suspend implements hypervisor.Lifecycle.
func (f *Fake) Suspend(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "Suspend", ref, func(m *Machine, d *fakeDomain) error {
		switch {
		case !d.state.Active():
			return hypervisor.ErrNotRunning
		case d.state != hypervisor.StatePaused:
			m.setState(d, hypervisor.StatePaused, hypervisor.ReasonUser)
		}
		return nil
	})
}

// Resume implements hypervisor.Lifecycle.
func (f *Fake) Resume(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "Resume", ref, func(m *Machine, d *fakeDomain) error {
		switch {
		case !d.state.Active():
			return hypervisor.ErrNotRunning
		case d.state != hypervisor.StateRunning:
			m.setState(d, hypervisor.StateRunning, hypervisor.ReasonUnpaused)
			if !d.serial.spoken() {
				d.serial.print(Ready)
			}
		}
		return nil
	})
}

// Undefine implements hypervisor.Lifecycle.
func (f *Fake) Undefine(ctx context.Context, ref hypervisor.Ref, opts hypervisor.UndefineOptions) error {
	err := f.on(ctx, "Undefine", ref, func(m *Machine, d *fakeDomain) error {
		if d.state.Active() {
			return hypervisor.ErrRunning
		}
		delete(m.domains, ref.DomainName())
		m.dropFirmwareState(ref.DomainName(), d.uuid, opts)
		m.publish(d, hypervisor.Event{Kind: hypervisor.EventUndefined})
		return nil
	})
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil
	}
	return err
}

// Stats implements hypervisor.Observer. Every CPU has been busy since the start.
func (f *Fake) Stats(ctx context.Context) ([]hypervisor.Stats, error) {
	if err := f.enter(ctx, "Stats"); err != nil {
		return nil, err
	}
	defer f.machine.mu.Unlock()
	var all []hypervisor.Stats
	for _, d := range f.machine.domains {
		if !d.ours || !d.state.Active() {
			continue
		}
		ran := uint64(time.Since(d.started)) + 1
		s := hypervisor.Stats{
			Ref: d.owner.Ref, State: d.state,
			CPU:    hypervisor.CPUStats{Time: ran * uint64(d.sizes.vcpus)},
			Memory: hypervisor.MemoryStats{Current: uint64(d.sizes.memory), Maximum: uint64(d.sizes.booted), RSS: uint64(d.sizes.memory)},
		}
		for i := range d.sizes.vcpus {
			s.CPU.VCPUs = append(s.CPU.VCPUs, hypervisor.VCPUStats{ID: uint(i), Running: true, Time: ran})
		}
		for _, device := range d.devices {
			if device.kind == "disk" {
				s.Disks = append(s.Disks, hypervisor.DiskStats{
					Alias: device.name, ReadRequests: 1, ReadBytes: 512, Capacity: uint64(d.sizes.disk(device.name)),
				})
			}
		}
		all = append(all, s)
	}
	return all, nil
}
