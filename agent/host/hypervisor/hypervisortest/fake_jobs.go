package hypervisortest

import (
	"context"
	"errors"
	"slices"

	"virtmesh/agent/host/hypervisor"
)

// Jobs implements hypervisor.Jobs.
func (f *Fake) Jobs(ctx context.Context, ref hypervisor.Ref) (out []hypervisor.Job, err error) {
	err = f.on(ctx, "Jobs", ref, func(_ *Machine, d *fakeDomain) error {
		out = slices.Clone(d.jobs)
		return nil
	})
	return out, err
}

// AbortJob implements hypervisor.Jobs.
func (f *Fake) AbortJob(ctx context.Context, ref hypervisor.Ref, volume string) error {
	return f.on(ctx, "AbortJob", ref, func(m *Machine, d *fakeDomain) error {
		m.endJob(d, volume, hypervisor.JobCanceled, "")
		return nil
	})
}

// BeginJob puts a job under way, as another agent would have done.
func (m *Machine) BeginJob(ref hypervisor.Ref, job hypervisor.Job) error {
	return m.do(ref, func(d *fakeDomain) {
		// The job on the domain comes before those on volumes.
		i := len(d.jobs)
		if job.Volume == "" {
			i = 0
		}
		d.jobs = slices.Insert(d.jobs, i, job)
	})
}

// EndJob ends the job of a volume, or with none that of the domain. A migration that
// completes takes the guest away.
func (m *Machine) EndJob(ref hypervisor.Ref, volume string, result hypervisor.JobResult, detail string) error {
	return m.do(ref, func(d *fakeDomain) { m.endJob(d, volume, result, detail) })
}

func (m *Machine) endJob(d *fakeDomain, volume string, result hypervisor.JobResult, detail string) {
	i := slices.IndexFunc(d.jobs, func(j hypervisor.Job) bool { return j.Volume == volume })
	if i < 0 {
		return
	}
	job := d.jobs[i]
	d.jobs = slices.Delete(d.jobs, i, i+1)
	m.publish(d, hypervisor.Event{Kind: hypervisor.EventJob, Device: volume, Job: job.Kind, Result: result, Detail: detail})
	if job.Kind == hypervisor.JobMigrationOut && result == hypervisor.JobCompleted {
		m.end(d, hypervisor.ReasonMigrated)
	}
	d.wakeJobs()
}

// wakeJobs wakes those who wait for the end of a job.
func (d *fakeDomain) wakeJobs() {
	close(d.jobEnded)
	d.jobEnded = make(chan struct{})
}

// AwaitMigration implements hypervisor.Migrator.
func (f *Fake) AwaitMigration(ctx context.Context, ref hypervisor.Ref) (stats hypervisor.MigrationStats, err error) {
	for {
		var ended chan struct{}
		err := f.on(ctx, "AwaitMigration", ref, func(_ *Machine, d *fakeDomain) error {
			if i := slices.IndexFunc(d.jobs, func(j hypervisor.Job) bool { return j.Kind == hypervisor.JobMigrationOut }); i >= 0 {
				stats, ended = d.jobs[i].Migration, d.jobEnded
				return nil
			}
			return outcome(d)
		})
		if err != nil || ended == nil {
			return stats, err
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return stats, ctx.Err()
		}
	}
}

// outcome tells how a migration ended from the state it left.
func outcome(d *fakeDomain) error {
	switch {
	case d.state == hypervisor.StateShutoff && d.reason == hypervisor.ReasonMigrated:
		return nil
	case !d.state.Active():
		return hypervisor.ErrNotRunning
	case d.reason == hypervisor.ReasonPostcopyFailed:
		return hypervisor.ErrMigrationLost
	}
	return errors.New("the guest has not left this host")
}
