package hypervisortest

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/host/hypervisor/broadcast"
)

var _ hypervisor.Hypervisor = (*Fake)(nil)

// Machine is a host in memory. Its guests outlive the connections that Open returns, as
// real guests outlive the agent. They behave like the guest of BootDisk. The other
// methods of Machine play outside events, such as a crash.
type Machine struct {
	mu      sync.Mutex
	domains map[string]*fakeDomain // by name
	hubs    map[*broadcast.Hub]struct{}
	caps    hypervisor.Capabilities
	away    bool
	faults  map[string]error
	reach   map[string]*Machine
	// nvram and tpm are the states of firmware and TPMs, by domain name and by UUID.
	nvram, tpm map[string]bool
}

// NewMachine returns a host without domains, with 8 CPUs and 32 GiB of memory.
func NewMachine() *Machine {
	const gib = 1 << 30
	return &Machine{
		domains: map[string]*fakeDomain{},
		hubs:    map[*broadcast.Hub]struct{}{},
		faults:  map[string]error{},
		reach:   map[string]*Machine{},
		nvram:   map[string]bool{},
		tpm:     map[string]bool{},
		caps: hypervisor.Capabilities{
			HostUUID: rand.Text(), HypervisorVersion: "7.2.0", LibraryVersion: "9.0.0",
			Arch: "x86_64", Emulator: "/usr/bin/qemu-system-x86_64", KVM: true,
			CPUs: 8, MemoryBytes: 32 * gib, MaxVCPUs: 288,
			Machines: []hypervisor.MachineType{
				{Name: "pc-q35-7.2", Canonical: "pc-q35-7.2", MaxVCPUs: 288},
				{Name: "q35", Canonical: "pc-q35-7.2", MaxVCPUs: 288},
			},
			CPUModels: []string{"qemu64", "EPYC"},
			HostModel: "EPYC", HostVendor: "AMD", HugepageSizes: []uint64{2048},
			EFI: true, SecureBoot: true, TPM: true,
		},
	}
}

// fakeDomain is a domain and the guest in it. The machine's lock guards it.
type fakeDomain struct {
	owner   hypervisor.Owner
	ours    bool
	uuid    string
	state   hypervisor.State
	reason  hypervisor.Reason
	xml     string
	records map[string]string
	serial  *fakeSerial
	started time.Time
	agent   *hypervisor.GuestInfo
	deaf    bool
	frozen  bool
	devices []fakeDevice
	sizes   fakeSizes
	jobs    []hypervisor.Job
	// jobEnded is closed, and made anew, when a job ends or the guest does.
	jobEnded chan struct{}
}

// DefineForeign adds a domain that is not ours.
func (m *Machine) DefineForeign(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.domains[name] = &fakeDomain{state: hypervisor.StateShutoff, uuid: rand.Text()}
}

// Has says whether any domain has the name.
func (m *Machine) Has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.domains[name]
	return ok
}

// XML returns the definition that ref's domain was last started from.
func (m *Machine) XML(ref hypervisor.Ref) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if d, err := m.find(ref); err == nil {
		return d.xml
	}
	return ""
}

// HasFirmwareState says whether there are firmware variables and a TPM's state for a
// domain of that name and UUID, whether it is defined or not.
func (m *Machine) HasFirmwareState(name, uuid string) (nvram, tpm bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nvram[name], m.tpm[uuid]
}

// SetCapabilities changes what the host can run, as an upgrade of the emulator does.
func (m *Machine) SetCapabilities(change func(*hypervisor.Capabilities)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(&m.caps)
}

// Fail makes the next call of the named method ("Start", "Destroy" ...) fail with err;
// "Arrive" is that of a guest migrating here.
func (m *Machine) Fail(method string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults[method] = err
}

// SetAway stops or restarts the hypervisor's daemon. Guests go on.
func (m *Machine) SetAway(away bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.away && !away {
		for hub := range m.hubs {
			hub.Publish(hypervisor.Event{Kind: hypervisor.EventResync, Time: time.Now()})
		}
	}
	m.away = away
}

// Crash ends a guest's process as a fault of QEMU does.
func (m *Machine) Crash(ref hypervisor.Ref) error {
	return m.do(ref, func(d *fakeDomain) { m.end(d, hypervisor.ReasonCrashed) })
}

// PowerOff lets a guest end itself.
func (m *Machine) PowerOff(ref hypervisor.Ref) error {
	return m.do(ref, func(d *fakeDomain) { m.end(d, hypervisor.ReasonShutdown) })
}

// PowerLoss ends all guests as the loss of the host's power does: the domains stay
// defined, and nothing tells how they ended.
func (m *Machine) PowerLoss() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.domains {
		if d.ours && d.state.Active() {
			m.end(d, hypervisor.ReasonUnknown)
		}
	}
}

// End ends a guest's process for the reason.
func (m *Machine) End(ref hypervisor.Ref, reason hypervisor.Reason) error {
	return m.do(ref, func(d *fakeDomain) { m.end(d, reason) })
}

// IOError lets a guest's disk fail, which stops its CPUs.
func (m *Machine) IOError(ref hypervisor.Ref, volume, detail string) error {
	return m.do(ref, func(d *fakeDomain) {
		m.publish(d, hypervisor.Event{Kind: hypervisor.EventIOError, Device: volume, Detail: detail})
		m.setState(d, hypervisor.StatePaused, hypervisor.ReasonIOError)
	})
}

// Pause stops a guest's CPUs for an outside reason, such as a watchdog or a failed
// post-copy migration.
func (m *Machine) Pause(ref hypervisor.Ref, reason hypervisor.Reason) error {
	return m.do(ref, func(d *fakeDomain) { m.setState(d, hypervisor.StatePaused, reason) })
}

// Sleep lets a guest go to sleep.
func (m *Machine) Sleep(ref hypervisor.Ref) error {
	return m.do(ref, func(d *fakeDomain) { m.setState(d, hypervisor.StateSuspended, hypervisor.ReasonUnknown) })
}

// Wake lets a guest run on that sleeps or whose CPUs are stopped.
func (m *Machine) Wake(ref hypervisor.Ref) error {
	return m.do(ref, func(d *fakeDomain) { m.setState(d, hypervisor.StateRunning, hypervisor.ReasonWakeup) })
}

// DropMemoryLimit leaves a guest's emulator without a limit of memory, as where its start was
// interrupted, or as it arrives in a migration.
func (m *Machine) DropMemoryLimit(ref hypervisor.Ref) error {
	return m.do(ref, func(d *fakeDomain) { d.sizes.limit = 0 })
}

// SetDeaf makes a guest ignore requests to shut down, or listen to them again.
func (m *Machine) SetDeaf(ref hypervisor.Ref, deaf bool) error {
	return m.do(ref, func(d *fakeDomain) { d.deaf = deaf })
}

// SetAgent connects an agent that answers with info, or with nil disconnects it.
func (m *Machine) SetAgent(ref hypervisor.Ref, info *hypervisor.GuestInfo) error {
	return m.do(ref, func(d *fakeDomain) {
		d.agent = info
		m.publish(d, hypervisor.Event{Kind: hypervisor.EventAgent, Connected: info != nil})
	})
}

// IsFrozen says whether the guest's file systems are frozen.
func (m *Machine) IsFrozen(ref hypervisor.Ref) bool {
	frozen := false
	err := m.do(ref, func(d *fakeDomain) { frozen = d.frozen })
	return err == nil && frozen
}

// do runs fn on a running domain.
func (m *Machine) do(ref hypervisor.Ref, fn func(*fakeDomain)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d, err := m.find(ref)
	if err != nil {
		return err
	}
	if !d.state.Active() {
		return hypervisor.ErrNotRunning
	}
	fn(d)
	return nil
}

// find returns ref's domain. Its caller holds the lock, as those of the rest do.
func (m *Machine) find(ref hypervisor.Ref) (*fakeDomain, error) {
	d, ok := m.domains[ref.DomainName()]
	if !ok || !d.ours || d.owner.Ref != ref {
		return nil, hypervisor.ErrNotFound
	}
	return d, nil
}

func (m *Machine) publish(d *fakeDomain, e hypervisor.Event) {
	e.Ref, e.Time = d.owner.Ref, time.Now()
	if m.away {
		return
	}
	for hub := range m.hubs {
		hub.Publish(e)
	}
}

func (m *Machine) setState(d *fakeDomain, state hypervisor.State, reason hypervisor.Reason) {
	d.state, d.reason = state, reason
	m.publish(d, hypervisor.Event{Kind: hypervisor.EventState, State: state, Reason: reason})
}

// end lets the guest's process go.
func (m *Machine) end(d *fakeDomain, reason hypervisor.Reason) {
	if d.agent != nil {
		d.agent = nil
		m.publish(d, hypervisor.Event{Kind: hypervisor.EventAgent})
	}
	d.serial.hangUp()
	for i := range d.devices {
		d.devices[i].releasing = false
	}
	d.jobs = nil
	d.wakeJobs()
	m.setState(d, hypervisor.StateShutoff, reason)
}

// conflict says which other domain has the UUID.
func (m *Machine) conflict(def definition) error {
	for _, name := range slices.Sorted(maps.Keys(m.domains)) {
		if d := m.domains[name]; def.UUID != "" && d.uuid == def.UUID && name != def.Name {
			return fmt.Errorf("%w: %s has the uuid", hypervisor.ErrConflict, name)
		}
	}
	return nil
}

// Open returns a connection to the machine.
func (m *Machine) Open() *Fake {
	f := &Fake{machine: m, hub: broadcast.New()}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hubs[f.hub] = struct{}{}
	return f
}

// Fake is a hypervisor.Hypervisor on a Machine.
type Fake struct {
	machine *Machine
	hub     *broadcast.Hub

	mu     sync.Mutex
	closed bool
}

// NewFake returns a connection to a machine of its own, for tests that need no more.
func NewFake() *Fake { return NewMachine().Open() }

// Machine returns the host, on which tests can play outside events.
func (f *Fake) Machine() *Machine { return f.machine }

// Close implements hypervisor.Hypervisor.
func (f *Fake) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.machine.mu.Lock()
	delete(f.machine.hubs, f.hub)
	f.machine.mu.Unlock()
	f.hub.Close()
	return nil
}

// Subscribe implements hypervisor.Inventory.
func (f *Fake) Subscribe(ctx context.Context) <-chan hypervisor.Event { return f.hub.Subscribe(ctx) }

// enter begins a call: it takes the machine's lock, which the caller must release, or
// returns an error that says why the call must fail.
func (f *Fake) enter(ctx context.Context, method string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.mu.Lock()
	closed := f.closed
	f.mu.Unlock()
	m := f.machine
	m.mu.Lock()
	err := m.faults[method]
	delete(m.faults, method)
	if closed || m.away {
		err = hypervisor.ErrUnavailable
	}
	if err != nil {
		m.mu.Unlock()
	}
	return err
}

// on runs fn on ref's domain.
func (f *Fake) on(ctx context.Context, method string, ref hypervisor.Ref, fn func(*Machine, *fakeDomain) error) error {
	err := f.enter(ctx, method)
	if err == nil {
		defer f.machine.mu.Unlock()
		var d *fakeDomain
		if d, err = f.machine.find(ref); err == nil {
			err = fn(f.machine, d)
		}
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, ref, err)
	}
	return nil
}
