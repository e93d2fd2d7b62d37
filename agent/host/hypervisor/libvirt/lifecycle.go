package libvirt

import (
	"context"
	"errors"
	"fmt"
	"regexp"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

// Start implements hypervisor.Lifecycle.
func (d *Driver) Start(ctx context.Context, xml string, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	owner, ours, err := hypervisor.OwnerOf(xml)
	if err == nil && !ours {
		err = errors.New("it carries no metadata of virtmesh")
	}
	if err != nil {
		return hypervisor.Domain{}, fmt.Errorf("start domain: %w: %w", hypervisor.ErrInvalid, err)
	}
	return call(ctx, d, d.starts, "start "+owner.Ref.String(), nil, func(conn *libvirt.Connect) (hypervisor.Domain, error) {
		return d.start(conn, owner.Ref, xml, opts)
	})
}

func (d *Driver) start(conn *libvirt.Connect, ref hypervisor.Ref, xml string, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	existed, running, err := d.existing(conn, ref, xml)
	if err != nil || running != nil {
		if running == nil {
			return hypervisor.Domain{}, err
		}
		defer running.Free()
		return d.describe(running)
	}
	xml, memory, err := splitMemoryLimit(xml)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	domain, err := d.startWithin(conn, ref, xml, existed, opts)
	if err == nil {
		d.limitMemory(conn, ref, memory)
	}
	return domain, err
}

// startWithin starts the domain with its weight and limit of CPU time, or without them if the
// host cannot keep them.
func (d *Driver) startWithin(conn *libvirt.Connect, ref hypervisor.Ref, xml string, existed bool, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	domain, err := d.defineAndCreate(conn, xml, existed, opts)
	if !lacksCPUController(err) {
		return domain, err
	}
	plain, hadTuning, parseErr := withoutCPUTime(xml)
	if parseErr != nil || !hadTuning {
		return domain, err
	}
	d.log.Warn("libvirt may not use the cgroup controller 'cpu' on this host: a guest starts without its CPU limit", "instance", ref.String(), "err", err)
	domain, err = d.defineAndCreate(conn, plain, existed, opts)
	domain.Warnings = []string{"spec.domain.resources.limits.cpu: not kept: libvirt has no cgroup controller for CPU time on this host"}
	return domain, err
}

// defineAndCreate defines the domain in xml and starts it. existed says that it was
// defined before; then it stays defined when the start fails.
func (d *Driver) defineAndCreate(conn *libvirt.Connect, xml string, existed bool, opts hypervisor.StartOptions) (hypervisor.Domain, error) {
	dom, err := conn.DomainDefineXMLFlags(xml, 0)
	if err != nil {
		return hypervisor.Domain{}, fmt.Errorf("define: %w", err)
	}
	defer dom.Free()
	flags := libvirt.DOMAIN_NONE
	if opts.Paused {
		flags = libvirt.DOMAIN_START_PAUSED
	}
	if err := createDomain(dom, flags); err != nil {
		// Another Start may have been faster. That is no failure, and the domain must
		// stay defined.
		if active, activeErr := dom.IsActive(); activeErr == nil && active {
			return d.describe(dom)
		}
		if !existed {
			// The files that libvirt made for it are removed too, unless they may be
			// older than this start.
			keep := hypervisor.UndefineOptions{KeepNVRAM: opts.KeepNVRAM, KeepTPM: opts.KeepTPM}
			if undefineErr := dom.UndefineFlags(undefineFlags(keep)); undefineErr != nil {
				err = errors.Join(err, fmt.Errorf("undefine it again: %w", undefineErr))
			}
		}
		return hypervisor.Domain{}, err
	}
	return d.describe(dom)
}

// createAttempts bounds how often createDomain starts a domain to learn why it fails.
const createAttempts = 3

// createDomain starts a defined domain. A QEMU that ends while it starts says why, but
// libvirt may look before anybody has what QEMU said: it finds only that nobody listens any
// more at the monitor, or reads a log that virtlogd is about to write. Another attempt
// tells.
func createDomain(dom *libvirt.Domain, flags libvirt.DomainCreateFlags) error {
	err := dom.CreateWithFlags(flags)
	for attempt := 1; attempt < createAttempts && hidesReason(err); attempt++ {
		err = dom.CreateWithFlags(flags)
	}
	return err
}

// reasonless matches messages of libvirt about a QEMU that ended while it started, without
// what QEMU said: nothing follows. Newer versions name the domain.
var reasonless = regexp.MustCompile(`(?i)failed to connect to monitor socket|(qemu unexpectedly closed the monitor|process exited while connecting to monitor)( \(vm='[^']*'\))?[:\s]*$`)

// hidesReason reports whether libvirt only says that QEMU ended while it started.
func hidesReason(err error) bool {
	var e libvirt.Error
	return errors.As(err, &e) && reasonless.MatchString(e.Message)
}

// existing looks for domains that already have the name or the UUID of the domain in
// xml. running is the domain itself if it runs; existed says that it is defined.
func (d *Driver) existing(conn *libvirt.Connect, ref hypervisor.Ref, xml string) (existed bool, running *libvirt.Domain, err error) {
	parsed := &libvirtxml.Domain{}
	if err := parsed.Unmarshal(xml); err != nil {
		return false, nil, fmt.Errorf("%w: %w", hypervisor.ErrInvalid, err)
	}
	if parsed.Name != ref.DomainName() {
		return false, nil, fmt.Errorf("%w: its name %q is not %q", hypervisor.ErrInvalid, parsed.Name, ref.DomainName())
	}
	if parsed.UUID != "" {
		if err := conflictingUUID(conn, parsed); err != nil {
			return false, nil, err
		}
	}
	dom, err := d.lookup(conn, ref)
	switch {
	case is(err, libvirt.ERR_NO_DOMAIN):
		return false, nil, nil
	case errors.Is(err, hypervisor.ErrNotFound):
		return false, nil, fmt.Errorf("%w: another domain is named %s", hypervisor.ErrConflict, ref.DomainName())
	case err != nil:
		return false, nil, err
	}
	active, err := dom.IsActive()
	if err == nil && active {
		return true, dom, nil
	}
	defer dom.Free()
	if err == nil {
		err = d.dropOtherUUID(dom, parsed.UUID)
	}
	return true, nil, err
}

// dropOtherUUID undefines a shut-off domain whose UUID is not wanted: libvirt redefines
// a domain only under the UUID that it has. The firmware's variables stay, as they do
// when a domain is redefined.
func (d *Driver) dropOtherUUID(dom *libvirt.Domain, wanted string) error {
	has, err := dom.GetUUIDString()
	if err != nil || wanted == "" || has == wanted {
		return err
	}
	owner, err := d.ownerOf(dom)
	if err != nil {
		return err
	}
	if err := dom.UndefineFlags(undefineFlags(hypervisor.UndefineOptions{KeepNVRAM: true, KeepTPM: owner.KeepTPM})); err != nil {
		return fmt.Errorf("undefine it under its uuid %s: %w", has, err)
	}
	return nil
}

// conflictingUUID finds another domain with the UUID, such as one that others defined.
// libvirt would redefine it.
func conflictingUUID(conn *libvirt.Connect, wanted *libvirtxml.Domain) error {
	other, err := conn.LookupDomainByUUIDString(wanted.UUID)
	if is(err, libvirt.ERR_NO_DOMAIN) {
		return nil
	}
	if err != nil {
		return err
	}
	defer other.Free()
	name, err := other.GetName()
	if err != nil {
		return err
	}
	if name != wanted.Name {
		return fmt.Errorf("%w: domain %s has the uuid %s", hypervisor.ErrConflict, name, wanted.UUID)
	}
	return nil
}

// Shutdown implements hypervisor.Lifecycle. It asks a connected guest agent first: the
// agent shuts the guest down in order even if the guest ignores the power button. But
// the agent belongs to the guest and may be broken or lie. So if the agent has not
// taken the request within Config.AgentTimeout, Shutdown presses the power button.
func (d *Driver) Shutdown(ctx context.Context, ref hypervisor.Ref) error {
	domain, err := d.Get(ctx, ref)
	if err != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	agent := func() error {
		return d.byAgent(ctx, "ask the agent to shut down", ref, func(dom *libvirt.Domain) error {
			return dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_GUEST_AGENT)
		})
	}
	button := func() error {
		return d.act(ctx, d.acts, "shut down", ref, func(dom *libvirt.Domain) error {
			err := dom.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
			return unless(dom, err, hypervisor.StateShutoff)
		})
	}
	refused, err := shutDown(domain, agent, button)
	if refused != nil {
		d.log.Info("a guest agent did not take the request to shut down; the power button was pressed", "instance", ref.String(), "err", refused)
	}
	return err
}

// shutDown asks a running guest to shut down or to reboot: through its agent, or by the power button
// if there is no agent or it does not take the request. refused is the agent's error.
func shutDown(domain hypervisor.Domain, agent, button func() error) (refused, err error) {
	if domain.State == hypervisor.StateShutoff {
		return nil, nil
	}
	if domain.AgentConnected {
		if refused = agent(); refused == nil {
			return nil, nil
		}
	}
	return refused, button()
}

// byAgent has the guest's agent do something, and returns nil if the agent has taken the
// request within Config.AgentTimeout.
func (d *Driver) byAgent(ctx context.Context, what string, ref hypervisor.Ref, ask func(*libvirt.Domain) error) error {
	ctx, cancel := context.WithTimeout(ctx, d.cfg.AgentTimeout)
	defer cancel()
	return d.act(ctx, d.agents, what, ref, func(dom *libvirt.Domain) error {
		if err := dom.AgentSetResponseTimeout(int(d.cfg.AgentTimeout.Seconds()), 0); err != nil {
			return err
		}
		return ask(dom)
	})
}

// Reboot implements hypervisor.Lifecycle, as Shutdown does.
func (d *Driver) Reboot(ctx context.Context, ref hypervisor.Ref) error {
	domain, err := d.Get(ctx, ref)
	if err == nil && domain.State == hypervisor.StateShutoff {
		err = hypervisor.ErrNotRunning
	}
	if err != nil {
		return fmt.Errorf("reboot: %w", err)
	}
	agent := func() error {
		return d.byAgent(ctx, "ask the agent to reboot", ref, func(dom *libvirt.Domain) error {
			return dom.Reboot(libvirt.DOMAIN_REBOOT_GUEST_AGENT)
		})
	}
	button := func() error {
		return d.act(ctx, d.acts, "reboot", ref, func(dom *libvirt.Domain) error {
			return dom.Reboot(libvirt.DOMAIN_REBOOT_ACPI_POWER_BTN)
		})
	}
	refused, err := shutDown(domain, agent, button)
	if refused != nil {
		d.log.Info("a guest agent did not take the request to reboot; the power button was pressed", "instance", ref.String(), "err", refused)
	}
	return err
}

// Reset implements hypervisor.Lifecycle.
func (d *Driver) Reset(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.acts, "reset", ref, func(dom *libvirt.Domain) error { return dom.Reset(0) })
}

// Destroy implements hypervisor.Lifecycle. libvirt returns after the process is gone,
// or with an error.
func (d *Driver) Destroy(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.ends, "destroy", ref, func(dom *libvirt.Domain) error {
		return unless(dom, dom.DestroyFlags(libvirt.DOMAIN_DESTROY_DEFAULT), hypervisor.StateShutoff)
	})
}

// Suspend implements hypervisor.Lifecycle.
func (d *Driver) Suspend(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.acts, "suspend", ref, func(dom *libvirt.Domain) error {
		return unless(dom, dom.Suspend(), hypervisor.StatePaused)
	})
}

// Resume implements hypervisor.Lifecycle.
func (d *Driver) Resume(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.acts, "resume", ref, func(dom *libvirt.Domain) error {
		return unless(dom, dom.Resume(), hypervisor.StateRunning)
	})
}

// unless returns nil instead of err if the domain is in the wanted state anyway.
func unless(dom *libvirt.Domain, err error, wanted hypervisor.State) error {
	if err == nil || !is(err, libvirt.ERR_OPERATION_INVALID) {
		return err
	}
	state, reason, stateErr := dom.GetState()
	if stateErr != nil {
		return err
	}
	if got, _ := domainState(state, reason); got == wanted {
		return nil
	}
	return err
}

// Undefine implements hypervisor.Lifecycle.
func (d *Driver) Undefine(ctx context.Context, ref hypervisor.Ref, opts hypervisor.UndefineOptions) error {
	err := d.act(ctx, d.acts, "undefine", ref, func(dom *libvirt.Domain) error {
		active, err := dom.IsActive()
		if err != nil {
			return err
		}
		if active {
			// libvirt would make the domain transient, and how it ends would be lost.
			return hypervisor.ErrRunning
		}
		return dom.UndefineFlags(undefineFlags(opts))
	})
	if errors.Is(err, hypervisor.ErrNotFound) {
		return nil
	}
	return err
}

// undefineFlags says what is removed with the domain. libvirt 9.0 refuses the flag that
// keeps the TPM's state; without a flag, libvirt keeps a persistent state.
func undefineFlags(opts hypervisor.UndefineOptions) libvirt.DomainUndefineFlagsValues {
	flags := libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA | libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
	if opts.KeepNVRAM {
		flags |= libvirt.DOMAIN_UNDEFINE_KEEP_NVRAM
	} else {
		flags |= libvirt.DOMAIN_UNDEFINE_NVRAM
	}
	if !opts.KeepTPM {
		flags |= libvirt.DOMAIN_UNDEFINE_TPM
	}
	return flags
}
