package hypervisor

import (
	"context"
	"time"
)

// Jobs shows and ends work on a domain that takes its time. Such work belongs to the
// hypervisor and goes on when the agent that began it is gone: the next agent finds it
// here, and learns by EventJob that it has completed. An end that came while no agent listened shows
// in what the job was for: the state of the domain, its definition, its disks.
type Jobs interface {
	// Jobs lists what is under way on a domain, the job on the domain as a whole before
	// those on its volumes. It does not wait for any of them.
	Jobs(ctx context.Context, ref Ref) ([]Job, error)
	// AbortJob ends the block job of a volume or, when volume is empty, the job on the
	// domain, and leaves the guest where it was. It returns when the hypervisor has been
	// told. EventJob reports the end of a block job; that of the domain's job shows in
	// Jobs, and of a migration in Migrator.AwaitMigration. Without such a job it does
	// nothing.
	AbortJob(ctx context.Context, ref Ref, volume string) error
}

// JobKind says what a job does.
type JobKind string

// The kinds of jobs. Those of volumes start with "block-".
const (
	JobMigrationOut JobKind = "migration-out"
	JobMigrationIn  JobKind = "migration-in"
	// JobSave writes the guest's memory to a file: a save, a dump, a snapshot.
	JobSave JobKind = "save"
	// JobBackup copies the disks as they were at one moment.
	JobBackup JobKind = "backup"
	// JobBlockCopy copies a disk elsewhere while the guest writes to it.
	JobBlockCopy JobKind = "block-copy"
	// JobBlockCommit merges an overlay into what it lies on.
	JobBlockCommit JobKind = "block-commit"
	// JobBlockPull merges what a disk lies on into it.
	JobBlockPull JobKind = "block-pull"
	// JobOther is what this contract has no name for.
	JobOther JobKind = "other"
)

// String returns the kind's name.
func (k JobKind) String() string { return string(k) }

// JobResult says what became of a job.
type JobResult string

// The results. Ready is that of a block copy or commit that has caught up with the
// guest, and goes on mirroring until it is ended; the others are final.
const (
	JobCompleted JobResult = "completed"
	JobFailed    JobResult = "failed"
	JobCanceled  JobResult = "canceled"
	JobReady     JobResult = "ready"
)

// String returns the result's name.
func (r JobResult) String() string { return string(r) }

// Job is work under way.
type Job struct {
	Kind JobKind
	// Volume names the volume of a block job.
	Volume string
	// Done and Total count the bytes, where the hypervisor counts them. Total may grow
	// while the guest writes.
	Done, Total uint64
	// Elapsed is zero for block jobs, which the hypervisor does not time.
	Elapsed time.Duration
	// Migration has more figures of a migration.
	Migration MigrationStats
}
