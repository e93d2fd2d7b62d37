package hypervisortest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/host/hypervisor"
)

var _ hypervisor.Migrator = (*Fake)(nil)

// Reach makes other the machine that this one finds at uri when it migrates.
func (m *Machine) Reach(uri string, other *Machine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reach[uri] = other
}

// Migrate implements hypervisor.Migrator. The guest is on the other machine at once.
func (f *Fake) Migrate(ctx context.Context, ref hypervisor.Ref, opts hypervisor.MigrateOptions) (hypervisor.MigrationStats, error) {
	var guest fakeDomain
	var other *Machine
	err := f.on(ctx, "Migrate", ref, func(m *Machine, d *fakeDomain) error {
		var ok bool
		switch other, ok = m.reach[opts.Destination]; {
		case opts.Owner.Ref != ref:
			return hypervisor.ErrInvalid
		case !d.state.Active():
			return hypervisor.ErrNotRunning
		case !ok || other == m:
			return fmt.Errorf("cannot reach %s", opts.Destination)
		}
		guest = *d
		return nil
	})
	if err != nil {
		return hypervisor.MigrationStats{}, err
	}
	// The machines' locks are never held together: two guests may cross.
	if err := other.arrive(guest, opts); err != nil {
		return hypervisor.MigrationStats{}, fmt.Errorf("migrate %s: %w", ref, err)
	}
	err = f.on(context.WithoutCancel(ctx), "", ref, func(m *Machine, d *fakeDomain) error {
		m.end(d, hypervisor.ReasonMigrated)
		return nil
	})
	const took = time.Second
	return hypervisor.MigrationStats{Elapsed: took, MemoryTotal: uint64(guest.sizes.memory), MemoryDone: uint64(guest.sizes.memory)}, err
}

// arrive takes a guest in.
func (m *Machine) arrive(guest fakeDomain, opts hypervisor.MigrateOptions) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.faults["Arrive"]; err != nil {
		delete(m.faults, "Arrive")
		return err
	}
	name := guest.owner.DomainName()
	if there, ok := m.domains[name]; ok && (there.owner.Ref != guest.owner.Ref || there.state.Active()) {
		return fmt.Errorf("%w: %s", hypervisor.ErrConflict, name)
	}
	d := &guest
	d.xml = strings.Replace(d.xml, d.owner.Metadata(), opts.Owner.Metadata(), 1)
	d.owner = opts.Owner
	// Records and jobs are of the host that the guest came from.
	d.records, d.jobs, d.jobEnded = nil, nil, make(chan struct{})
	d.devices, d.sizes.disks = slices.Clone(d.devices), maps.Clone(d.sizes.disks)
	d.serial = newFakeSerial(func(command byte) { m.obey(d, command) })
	m.domains[name] = d
	state := guest.state
	m.setState(d, hypervisor.StateRunning, hypervisor.ReasonMigrated)
	if state == hypervisor.StatePaused {
		m.setState(d, state, hypervisor.ReasonUser)
	}
	return nil
}

// MigrationStats implements hypervisor.Migrator. Only a migration that BeginJob put
// under way is ever seen.
func (f *Fake) MigrationStats(ctx context.Context, ref hypervisor.Ref) (stats hypervisor.MigrationStats, err error) {
	err = f.on(ctx, "MigrationStats", ref, func(_ *Machine, d *fakeDomain) error {
		for _, job := range d.jobs {
			if job.Kind == hypervisor.JobMigrationOut {
				stats = job.Migration
			}
		}
		return nil
	})
	return stats, err
}

// StartPostCopy implements hypervisor.Migrator.
func (f *Fake) StartPostCopy(ctx context.Context, ref hypervisor.Ref) error {
	return f.on(ctx, "StartPostCopy", ref, func(*Machine, *fakeDomain) error { return hypervisor.ErrNotRunning })
}
