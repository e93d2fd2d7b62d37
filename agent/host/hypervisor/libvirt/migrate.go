package libvirt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"virtmesh/agent/host/hypervisor"
)

var _ hypervisor.Migrator = (*Driver)(nil)

// Migrate implements hypervisor.Migrator. The two daemons exchange the data; none of it
// passes through this process.
func (d *Driver) Migrate(ctx context.Context, ref hypervisor.Ref, opts hypervisor.MigrateOptions) (hypervisor.MigrationStats, error) {
	if opts.Owner.Ref != ref {
		return hypervisor.MigrationStats{}, fmt.Errorf("migrate %s: %w: the owner there is %s", ref, hypervisor.ErrInvalid, opts.Owner.Ref)
	}
	if err := ctx.Err(); err != nil {
		return hypervisor.MigrationStats{}, fmt.Errorf("migrate %s: %w", ref, err)
	}
	// The call always runs to its end, because only its result says where the guest is.
	// The end of ctx aborts the job instead.
	return onDomain(context.WithoutCancel(ctx), d, d.moves, "migrate", ref, nil,
		func(_ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.MigrationStats, error) {
			params, flags, err := migration(dom, opts)
			if err != nil {
				return hypervisor.MigrationStats{}, err
			}
			defer d.abortWith(ctx, dom)()
			if err := dom.MigrateToURI3(opts.Destination, params, flags); err != nil {
				return hypervisor.MigrationStats{}, d.migrationError(ctx, dom, err)
			}
			info, err := dom.GetJobStats(libvirt.DOMAIN_JOB_STATS_COMPLETED)
			if err != nil {
				// The guest has arrived; missing statistics are no failure.
				d.log.Warn("a completed migration has no statistics", "instance", ref.String(), "err", err)
				return hypervisor.MigrationStats{}, nil
			}
			return migrationStats(info), nil
		})
}

// abortWith aborts dom's job when ctx ends before the returned function is called. An
// abort that comes before the job has begun is repeated.
func (d *Driver) abortWith(ctx context.Context, dom *libvirt.Domain) (done func()) {
	const again = 200 * time.Millisecond
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-ctx.Done():
		case <-over:
			return
		}
		for {
			// An error means that there is no job yet, or that it has ended.
			_ = dom.AbortJob()
			select {
			case <-over:
				return
			case <-time.After(again):
			}
		}
	}()
	return func() { close(over); <-ended }
}

// migrationError returns the error of a failed migration, which says in which state the
// guest was left.
func (d *Driver) migrationError(ctx context.Context, dom *libvirt.Domain, err error) error {
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	state, reason, stateErr := dom.GetState()
	if stateErr != nil {
		return errors.Join(err, stateErr)
	}
	now, why := domainState(state, reason)
	if !now.Active() || why == hypervisor.ReasonPostcopyFailed {
		return fmt.Errorf("%w (%s, %s): %w", hypervisor.ErrMigrationLost, now, why, err)
	}
	return err
}

// migration translates opts to libvirt's parameters for a running domain.
func migration(dom *libvirt.Domain, opts hypervisor.MigrateOptions) (*libvirt.DomainMigrateParameters, libvirt.DomainMigrateFlags, error) {
	text, err := dom.GetXMLDesc(libvirt.DOMAIN_XML_MIGRATABLE | libvirt.DOMAIN_XML_SECURE)
	if err != nil {
		return nil, 0, err
	}
	domain := &libvirtxml.Domain{}
	if err := domain.Unmarshal(text); err != nil {
		return nil, 0, err
	}
	copied, err := rewrite(domain, opts)
	if err != nil {
		return nil, 0, err
	}
	there, err := domain.Marshal()
	if err != nil {
		return nil, 0, err
	}
	flags := libvirt.MIGRATE_LIVE | libvirt.MIGRATE_PEER2PEER | libvirt.MIGRATE_PERSIST_DEST | libvirt.MIGRATE_ABORT_ON_ERROR
	params := &libvirt.DomainMigrateParameters{
		URISet: opts.MemoryURI != "", URI: opts.MemoryURI,
		DestXMLSet: true, DestXML: there,
		PersistXMLSet: true, PersistXML: there,
	}
	if len(copied) > 0 {
		flags |= libvirt.MIGRATE_NON_SHARED_DISK
		params.MigrateDisksSet, params.MigrateDisks = true, copied
		params.DisksURISet, params.DisksURI = opts.DisksURI != "", opts.DisksURI
	}
	if opts.BytesPerSecond > 0 {
		const mib = 1 << 20
		params.BandwidthSet, params.Bandwidth = true, max(1, uint64(opts.BytesPerSecond)/mib)
	}
	if opts.AutoConverge {
		flags |= libvirt.MIGRATE_AUTO_CONVERGE
	}
	if opts.AllowPostCopy {
		flags |= libvirt.MIGRATE_POSTCOPY
	}
	return params, flags, nil
}

// rewrite changes the definition of a running domain to the one on the other host, and
// returns the targets of the disks to copy. Everything that the guest can see must stay
// the same.
func rewrite(domain *libvirtxml.Domain, opts hypervisor.MigrateOptions) (copied []string, err error) {
	if domain.MemoryTune != nil {
		domain.MemoryTune.HardLimit = nil // it is set where the guest runs: see splitMemoryLimit
	}
	domain.Metadata = &libvirtxml.DomainMetadata{XML: opts.Owner.Metadata()}
	if opts.NVRAM != "" && domain.OS != nil && domain.OS.NVRam != nil {
		domain.OS.NVRam.NVRam = opts.NVRAM
	}
	if domain.Devices == nil {
		return nil, nil
	}
	missing := slices.Clone(opts.CopyVolumes)
	for i := range domain.Devices.Disks {
		disk := &domain.Devices.Disks[i]
		name := instanceName(disk.Alias)
		if path, ok := opts.DiskPaths[name]; ok && disk.Source != nil {
			switch {
			case disk.Source.File != nil:
				disk.Source.File.File = path
			case disk.Source.Block != nil:
				disk.Source.Block.Dev = path
			}
		}
		if j := slices.Index(missing, name); j >= 0 && disk.Target != nil {
			copied = append(copied, disk.Target.Dev)
			missing = slices.Delete(missing, j, j+1)
		}
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%w: the domain has no disk of volumes %v", hypervisor.ErrInvalid, missing)
	}
	for i := range domain.Devices.Interfaces {
		nic := &domain.Devices.Interfaces[i]
		if tap, ok := opts.TapDevices[instanceName(nic.Alias)]; ok {
			nic.Target = &libvirtxml.DomainInterfaceTarget{Dev: tap, Managed: "no"}
		}
	}
	if opts.SerialLog != "" {
		for i := range domain.Devices.Serials {
			if log := domain.Devices.Serials[i].Log; log != nil {
				log.File = opts.SerialLog
			}
		}
		for i := range domain.Devices.Consoles {
			if log := domain.Devices.Consoles[i].Log; log != nil {
				log.File = opts.SerialLog
			}
		}
	}
	return copied, nil
}

// MigrationStats implements hypervisor.Migrator.
func (d *Driver) MigrationStats(ctx context.Context, ref hypervisor.Ref) (hypervisor.MigrationStats, error) {
	return onDomain(ctx, d, d.queries, "read migration of", ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) (hypervisor.MigrationStats, error) {
		info, err := dom.GetJobStats(0)
		if err != nil || info.Type == libvirt.DOMAIN_JOB_NONE || info.Operation != libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT {
			return hypervisor.MigrationStats{}, err
		}
		return migrationStats(info), nil
	})
}

func migrationStats(info *libvirt.DomainJobInfo) hypervisor.MigrationStats {
	return hypervisor.MigrationStats{
		Elapsed:     time.Duration(info.TimeElapsed) * time.Millisecond,
		Downtime:    time.Duration(info.Downtime) * time.Millisecond,
		MemoryTotal: info.MemTotal, MemoryDone: info.MemProcessed, MemoryRemaining: info.MemRemaining,
		DiskTotal: info.DiskTotal, DiskDone: info.DiskProcessed, DiskRemaining: info.DiskRemaining,
		DirtyBytesPerSecond:  info.MemDirtyRate * info.MemPageSize,
		MemoryBytesPerSecond: info.MemBps,
		Iterations:           info.MemIteration,
		PostCopy:             info.MemPostcopyReqs > 0,
	}
}

// StartPostCopy implements hypervisor.Migrator.
func (d *Driver) StartPostCopy(ctx context.Context, ref hypervisor.Ref) error {
	return d.act(ctx, d.acts, "start post-copy of", ref, func(dom *libvirt.Domain) error {
		return dom.MigrateStartPostCopy(0)
	})
}
