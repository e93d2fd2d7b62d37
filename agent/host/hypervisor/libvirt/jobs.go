package libvirt

import (
	"context"
	"errors"
	"fmt"
	"time"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// The kinds of libvirt's jobs, and the contract's names for them.
var (
	domainJobKinds = map[libvirt.DomainJobOperationType]hypervisor.JobKind{
		libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT: hypervisor.JobMigrationOut,
		libvirt.DOMAIN_JOB_OPERATION_MIGRATION_IN:  hypervisor.JobMigrationIn,
		libvirt.DOMAIN_JOB_OPERATION_SAVE:          hypervisor.JobSave,
		libvirt.DOMAIN_JOB_OPERATION_DUMP:          hypervisor.JobSave,
		libvirt.DOMAIN_JOB_OPERATION_SNAPSHOT:      hypervisor.JobSave,
		libvirt.DOMAIN_JOB_OPERATION_BACKUP:        hypervisor.JobBackup,
	}
	blockJobKinds = map[libvirt.DomainBlockJobType]hypervisor.JobKind{
		libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY:          hypervisor.JobBlockCopy,
		libvirt.DOMAIN_BLOCK_JOB_TYPE_COMMIT:        hypervisor.JobBlockCommit,
		libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: hypervisor.JobBlockCommit,
		libvirt.DOMAIN_BLOCK_JOB_TYPE_PULL:          hypervisor.JobBlockPull,
	}
	blockJobResults = map[libvirt.ConnectDomainEventBlockJobStatus]hypervisor.JobResult{
		libvirt.DOMAIN_BLOCK_JOB_COMPLETED: hypervisor.JobCompleted,
		libvirt.DOMAIN_BLOCK_JOB_FAILED:    hypervisor.JobFailed,
		libvirt.DOMAIN_BLOCK_JOB_CANCELED:  hypervisor.JobCanceled,
		libvirt.DOMAIN_BLOCK_JOB_READY:     hypervisor.JobReady,
	}
)

// kindOf looks up a kind. A newer libvirt may have kinds that are not in the table.
func kindOf[K comparable](table map[K]hypervisor.JobKind, key K) hypervisor.JobKind {
	if kind, ok := table[key]; ok {
		return kind
	}
	return hypervisor.JobOther
}

// jobResult says how the job that an event reports as completed has ended.
func jobResult(info libvirt.DomainJobInfo) hypervisor.JobResult {
	switch {
	case info.Type == libvirt.DOMAIN_JOB_CANCELLED:
		return hypervisor.JobCanceled
	case info.Type == libvirt.DOMAIN_JOB_FAILED, info.JobSuccessSet && !info.JobSuccess:
		return hypervisor.JobFailed
	}
	return hypervisor.JobCompleted
}

// Jobs implements hypervisor.Jobs.
func (d *Driver) Jobs(ctx context.Context, ref hypervisor.Ref) ([]hypervisor.Job, error) {
	return onDomain(ctx, d, d.queries, "read jobs of", ref, nil, func(_ *libvirt.Connect, dom *libvirt.Domain) ([]hypervisor.Job, error) {
		if active, err := dom.IsActive(); err != nil || !active {
			return nil, err
		}
		var out []hypervisor.Job
		job, ok, err := domainJob(dom)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, job)
		}
		blocks, err := blockJobs(dom)
		return append(out, blocks...), err
	})
}

// domainJob reads the job on the domain as a whole.
func domainJob(dom *libvirt.Domain) (hypervisor.Job, bool, error) {
	info, err := dom.GetJobStats(0)
	if is(err, libvirt.ERR_OPERATION_INVALID) {
		return hypervisor.Job{}, false, nil // it has just ended
	}
	if err != nil || (info.Type != libvirt.DOMAIN_JOB_BOUNDED && info.Type != libvirt.DOMAIN_JOB_UNBOUNDED) {
		return hypervisor.Job{}, false, err
	}
	job := hypervisor.Job{
		Kind: kindOf(domainJobKinds, info.Operation), Done: info.DataProcessed, Total: info.DataTotal,
		Elapsed: time.Duration(info.TimeElapsed) * time.Millisecond,
	}
	if job.Kind == hypervisor.JobMigrationOut {
		job.Migration = migrationStats(info)
	}
	return job, true, nil
}

// blockJobs reads the job of each disk.
func blockJobs(dom *libvirt.Domain) ([]hypervisor.Job, error) {
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return nil, err
	}
	devices, err := parseDeviceList(text)
	if err != nil {
		return nil, err
	}
	var out []hypervisor.Job
	for _, disk := range devices {
		if disk.XMLName.Local != "disk" || disk.Target.Dev == "" {
			continue
		}
		info, err := dom.GetBlockJobInfo(disk.Target.Dev, 0)
		if is(err, libvirt.ERR_OPERATION_INVALID) {
			return out, nil // the guest has ended, and its jobs with it
		}
		if err != nil {
			return out, err
		}
		// The bindings return the zero value for a disk without a job.
		if info.Type == libvirt.DOMAIN_BLOCK_JOB_TYPE_UNKNOWN {
			continue
		}
		out = append(out, hypervisor.Job{Kind: kindOf(blockJobKinds, info.Type), Volume: disk.name(), Done: info.Cur, Total: info.End})
	}
	return out, nil
}

// AbortJob implements hypervisor.Jobs.
func (d *Driver) AbortJob(ctx context.Context, ref hypervisor.Ref, volume string) error {
	return d.act(ctx, d.queries, "abort job of", ref, func(dom *libvirt.Domain) error {
		if active, err := dom.IsActive(); err != nil || !active {
			return err
		}
		if volume == "" {
			err := dom.AbortJob()
			if is(err, libvirt.ERR_OPERATION_INVALID) {
				return nil // there is no job
			}
			return err
		}
		disk, err := diskOf(dom, volume)
		if err != nil {
			return err
		}
		err = dom.BlockJobAbort(disk, libvirt.DOMAIN_BLOCK_JOB_ABORT_ASYNC)
		if is(err, libvirt.ERR_OPERATION_INVALID) || is(err, libvirt.ERR_INVALID_ARG) {
			return nil // there is no job
		}
		return err
	})
}

// diskOf returns the target of the running domain's disk of a volume.
func diskOf(dom *libvirt.Domain, volume string) (string, error) {
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return "", err
	}
	devices, err := parseDeviceList(text)
	if err != nil {
		return "", err
	}
	disk, ok := devices.named(volume)
	if !ok || disk.XMLName.Local != "disk" {
		return "", fmt.Errorf("%w: no disk of volume %s", hypervisor.ErrNoDevice, volume)
	}
	return disk.Target.Dev, nil
}

// ResizeBlock implements hypervisor.Resizer.
func (d *Driver) ResizeBlock(ctx context.Context, ref hypervisor.Ref, volume string, bytes int64) error {
	return d.act(ctx, d.acts, "resize the disk of "+volume+" of", ref, func(dom *libvirt.Domain) error {
		if active, err := dom.IsActive(); err != nil || !active {
			return orNotRunning(err)
		}
		disk, err := diskOf(dom, volume)
		if err != nil {
			return err
		}
		info, err := dom.GetBlockInfo(disk, 0)
		if err != nil {
			return err
		}
		switch {
		case bytes < 0 || uint64(bytes) < info.Capacity:
			return fmt.Errorf("%w: it has %d bytes and cannot shrink to %d", hypervisor.ErrInvalid, info.Capacity, bytes)
		case uint64(bytes) == info.Capacity:
			return nil
		}
		return dom.BlockResize(disk, uint64(bytes), libvirt.DOMAIN_BLOCK_RESIZE_BYTES)
	})
}

// awaitPoll is how often the state of a migration is read while no event comes.
const awaitPoll = time.Second

// AwaitMigration implements hypervisor.Migrator.
func (d *Driver) AwaitMigration(ctx context.Context, ref hypervisor.Ref) (hypervisor.MigrationStats, error) {
	listening, cancel := context.WithCancel(ctx)
	defer cancel()
	events := d.Subscribe(listening)
	tick := time.NewTicker(awaitPoll)
	defer tick.Stop()
	var stats hypervisor.MigrationStats
	said := ""
	for {
		now, err := d.MigrationStats(ctx, ref)
		switch {
		case err != nil && !errors.Is(err, hypervisor.ErrUnavailable) && !errors.Is(err, hypervisor.ErrNotRunning):
			return stats, err
		case err == nil && now.Elapsed > 0:
			stats = now
		case err == nil || errors.Is(err, hypervisor.ErrNotRunning):
			return stats, d.migrationOutcome(ctx, ref, said)
		}
		select {
		case e := <-events:
			if e.Ref == ref && e.Kind == hypervisor.EventJob && e.Job == hypervisor.JobMigrationOut {
				said = e.Detail
			}
		case <-tick.C:
		case <-ctx.Done():
			return stats, fmt.Errorf("await migration of %s: %w", ref, ctx.Err())
		}
	}
}

// migrationOutcome derives from the state of the domain how its migration has ended.
// said is the hypervisor's message about it.
func (d *Driver) migrationOutcome(ctx context.Context, ref hypervisor.Ref, said string) error {
	domain, err := d.Get(ctx, ref)
	switch {
	case err != nil:
		return err
	case domain.State == hypervisor.StateShutoff && domain.Reason == hypervisor.ReasonMigrated:
		return nil
	case domain.Reason == hypervisor.ReasonPostcopyFailed:
		err = hypervisor.ErrMigrationLost
	case !domain.State.Active():
		err = hypervisor.ErrNotRunning
	default:
		err = errors.New("the guest has not left this host")
	}
	if said != "" {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return fmt.Errorf("await migration of %s: %w", ref, err)
}
