package hypervisor

import (
	"context"
	"time"
)

// Jobs lists and aborts long-running work on a domain. Such work belongs to the
// hypervisor and continues when the agent that began it has stopped: the next agent
// finds it here, and an EventJob reports its completion. If a job ends while no agent
// listens, its result shows in the domain's state, its definition or its disks.
type Jobs interface {
	// Jobs lists the jobs in progress on a domain, the job on the domain as a whole
	// before those on its volumes. It does not wait for any of them.
	Jobs(ctx context.Context, ref Ref) ([]Job, error)
	// AbortJob aborts the block job of a volume or, when volume is empty, the job on
	// the domain, and leaves the guest where it was. It returns when the hypervisor has
	// accepted the request. EventJob reports the end of a block job. The end of the
	// domain's job shows in Jobs, the end of a migration in Migrator.AwaitMigration.
	// Without such a job AbortJob does nothing.
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
	// JobBlockCommit merges an overlay into its backing image.
	JobBlockCommit JobKind = "block-commit"
	// JobBlockPull merges a disk's backing image into the disk.
	JobBlockPull JobKind = "block-pull"
	// JobOther is any job that this contract has no name for.
	JobOther JobKind = "other"
)

// String returns the kind's name.
func (k JobKind) String() string { return string(k) }

// JobResult says how a job ended.
type JobResult string

// The results. A block copy or commit is Ready when it has caught up with the guest; it
// then mirrors the guest's writes until it is ended. The other results are final.
const (
	JobCompleted JobResult = "completed"
	JobFailed    JobResult = "failed"
	JobCanceled  JobResult = "canceled"
	JobReady     JobResult = "ready"
)

// String returns the result's name.
func (r JobResult) String() string { return string(r) }

// Job is a job in progress.
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
