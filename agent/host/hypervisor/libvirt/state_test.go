package libvirt

import (
	"testing"

	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// TestPauseReasonsAreToldApart: what stopped a guest decides whether it may be resumed,
// so no two of these may look alike, in the state that is asked for or in the event.
func TestPauseReasonsAreToldApart(t *testing.T) {
	for reason, want := range map[libvirt.DomainPausedReason]hypervisor.Reason{
		libvirt.DOMAIN_PAUSED_UNKNOWN:         hypervisor.ReasonUnknown,
		libvirt.DOMAIN_PAUSED_USER:            hypervisor.ReasonUser,
		libvirt.DOMAIN_PAUSED_IOERROR:         hypervisor.ReasonIOError,
		libvirt.DOMAIN_PAUSED_WATCHDOG:        hypervisor.ReasonWatchdog,
		libvirt.DOMAIN_PAUSED_STARTING_UP:     hypervisor.ReasonStarting,
		libvirt.DOMAIN_PAUSED_MIGRATION:       hypervisor.ReasonMigration,
		libvirt.DOMAIN_PAUSED_POSTCOPY:        hypervisor.ReasonPostcopy,
		libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED: hypervisor.ReasonPostcopyFailed,
		libvirt.DOMAIN_PAUSED_CRASHED:         hypervisor.ReasonCrashed,
		libvirt.DOMAIN_PAUSED_SHUTTING_DOWN:   hypervisor.ReasonShutdown,
		libvirt.DOMAIN_PAUSED_SAVE:            hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_DUMP:            hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_SNAPSHOT:        hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_FROM_SNAPSHOT:   hypervisor.ReasonSnapshot,
		libvirt.DomainPausedReason(999):       hypervisor.ReasonUnknown,
	} {
		state, got := domainState(libvirt.DOMAIN_PAUSED, int(reason))
		if state != hypervisor.StatePaused || got != want {
			t.Errorf("reason %d is %s, %s, want %s", reason, state, got, want)
		}
	}
	for detail, want := range map[libvirt.DomainEventSuspendedDetailType]hypervisor.Reason{
		libvirt.DOMAIN_EVENT_SUSPENDED_PAUSED:          hypervisor.ReasonUser,
		libvirt.DOMAIN_EVENT_SUSPENDED_IOERROR:         hypervisor.ReasonIOError,
		libvirt.DOMAIN_EVENT_SUSPENDED_WATCHDOG:        hypervisor.ReasonWatchdog,
		libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED:        hypervisor.ReasonMigration,
		libvirt.DOMAIN_EVENT_SUSPENDED_POSTCOPY:        hypervisor.ReasonPostcopy,
		libvirt.DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED: hypervisor.ReasonPostcopyFailed,
		libvirt.DOMAIN_EVENT_SUSPENDED_API_ERROR:       hypervisor.ReasonUnknown,
	} {
		state, got, ok := lifecycleState(&libvirt.DomainEventLifecycle{Event: libvirt.DOMAIN_EVENT_SUSPENDED, Detail: int(detail)})
		if !ok || state != hypervisor.StatePaused || got != want {
			t.Errorf("event %d is %s, %s, want %s", detail, state, got, want)
		}
	}
}

func TestStatesThatAreAskedFor(t *testing.T) {
	for _, c := range []struct {
		state  libvirt.DomainState
		reason int
		want   hypervisor.State
		why    hypervisor.Reason
	}{
		{libvirt.DOMAIN_RUNNING, int(libvirt.DOMAIN_RUNNING_BOOTED), hypervisor.StateRunning, hypervisor.ReasonBooted},
		{libvirt.DOMAIN_BLOCKED, 0, hypervisor.StateRunning, hypervisor.ReasonUnknown},
		{libvirt.DOMAIN_RUNNING, int(libvirt.DOMAIN_RUNNING_MIGRATED), hypervisor.StateRunning, hypervisor.ReasonMigrated},
		{libvirt.DOMAIN_SHUTDOWN, 0, hypervisor.StateShuttingDown, hypervisor.ReasonShutdown},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_SHUTDOWN), hypervisor.StateShutoff, hypervisor.ReasonShutdown},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_DESTROYED), hypervisor.StateShutoff, hypervisor.ReasonDestroyed},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_CRASHED), hypervisor.StateShutoff, hypervisor.ReasonCrashed},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_MIGRATED), hypervisor.StateShutoff, hypervisor.ReasonMigrated},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_FAILED), hypervisor.StateShutoff, hypervisor.ReasonFailed},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_DAEMON), hypervisor.StateShutoff, hypervisor.ReasonMissed},
		{libvirt.DOMAIN_SHUTOFF, int(libvirt.DOMAIN_SHUTOFF_UNKNOWN), hypervisor.StateShutoff, hypervisor.ReasonUnknown},
		{libvirt.DOMAIN_CRASHED, 0, hypervisor.StateCrashed, hypervisor.ReasonCrashed},
		{libvirt.DOMAIN_PMSUSPENDED, 0, hypervisor.StateSuspended, hypervisor.ReasonUnknown},
		{libvirt.DOMAIN_NOSTATE, 0, hypervisor.StateUnknown, hypervisor.ReasonUnknown},
	} {
		if got, why := domainState(c.state, c.reason); got != c.want || why != c.why {
			t.Errorf("state %d, reason %d is %s, %s, want %s, %s", c.state, c.reason, got, why, c.want, c.why)
		}
	}
}

func TestStatesThatEventsTell(t *testing.T) {
	for _, c := range []struct {
		event  libvirt.DomainEventType
		detail int
		want   hypervisor.State
		why    hypervisor.Reason
	}{
		{libvirt.DOMAIN_EVENT_STARTED, int(libvirt.DOMAIN_EVENT_STARTED_BOOTED), hypervisor.StateRunning, hypervisor.ReasonBooted},
		{libvirt.DOMAIN_EVENT_STARTED, int(libvirt.DOMAIN_EVENT_STARTED_MIGRATED), hypervisor.StateRunning, hypervisor.ReasonMigrated},
		{libvirt.DOMAIN_EVENT_RESUMED, int(libvirt.DOMAIN_EVENT_RESUMED_UNPAUSED), hypervisor.StateRunning, hypervisor.ReasonUnpaused},
		{libvirt.DOMAIN_EVENT_RESUMED, int(libvirt.DOMAIN_EVENT_RESUMED_POSTCOPY), hypervisor.StateRunning, hypervisor.ReasonPostcopy},
		{libvirt.DOMAIN_EVENT_STOPPED, int(libvirt.DOMAIN_EVENT_STOPPED_SHUTDOWN), hypervisor.StateShutoff, hypervisor.ReasonShutdown},
		{libvirt.DOMAIN_EVENT_STOPPED, int(libvirt.DOMAIN_EVENT_STOPPED_DESTROYED), hypervisor.StateShutoff, hypervisor.ReasonDestroyed},
		{libvirt.DOMAIN_EVENT_STOPPED, int(libvirt.DOMAIN_EVENT_STOPPED_CRASHED), hypervisor.StateShutoff, hypervisor.ReasonCrashed},
		{libvirt.DOMAIN_EVENT_STOPPED, int(libvirt.DOMAIN_EVENT_STOPPED_FAILED), hypervisor.StateShutoff, hypervisor.ReasonFailed},
		{libvirt.DOMAIN_EVENT_SHUTDOWN, 0, hypervisor.StateShuttingDown, hypervisor.ReasonShutdown},
		{libvirt.DOMAIN_EVENT_PMSUSPENDED, 0, hypervisor.StateSuspended, hypervisor.ReasonUnknown},
		{libvirt.DOMAIN_EVENT_CRASHED, 0, hypervisor.StateCrashed, hypervisor.ReasonCrashed},
	} {
		got, why, ok := lifecycleState(&libvirt.DomainEventLifecycle{Event: c.event, Detail: c.detail})
		if !ok || got != c.want || why != c.why {
			t.Errorf("event %d, detail %d is %s, %s, want %s, %s", c.event, c.detail, got, why, c.want, c.why)
		}
	}
	if state, reason, ok := lifecycleState(&libvirt.DomainEventLifecycle{Event: libvirt.DOMAIN_EVENT_DEFINED}); ok {
		t.Errorf("a definition is told as %s, %s", state, reason)
	}
}

func TestWatchdogActions(t *testing.T) {
	seen := map[string]bool{}
	for _, action := range []libvirt.DomainEventWatchdogAction{
		libvirt.DOMAIN_EVENT_WATCHDOG_NONE, libvirt.DOMAIN_EVENT_WATCHDOG_PAUSE, libvirt.DOMAIN_EVENT_WATCHDOG_RESET,
		libvirt.DOMAIN_EVENT_WATCHDOG_POWEROFF, libvirt.DOMAIN_EVENT_WATCHDOG_SHUTDOWN,
		libvirt.DOMAIN_EVENT_WATCHDOG_DEBUG, libvirt.DOMAIN_EVENT_WATCHDOG_INJECTNMI,
	} {
		name := watchdogAction(action)
		if name == "" || seen[name] {
			t.Errorf("action %d is called %q", action, name)
		}
		seen[name] = true
	}
}

func TestJobsInTheContractsWords(t *testing.T) {
	for operation, want := range map[libvirt.DomainJobOperationType]hypervisor.JobKind{
		libvirt.DOMAIN_JOB_OPERATION_MIGRATION_OUT: hypervisor.JobMigrationOut,
		libvirt.DOMAIN_JOB_OPERATION_MIGRATION_IN:  hypervisor.JobMigrationIn,
		libvirt.DOMAIN_JOB_OPERATION_SNAPSHOT:      hypervisor.JobSave,
		libvirt.DOMAIN_JOB_OPERATION_BACKUP:        hypervisor.JobBackup,
		libvirt.DOMAIN_JOB_OPERATION_UNKNOWN:       hypervisor.JobOther,
		libvirt.DomainJobOperationType(99):         hypervisor.JobOther,
	} {
		if got := kindOf(domainJobKinds, operation); got != want {
			t.Errorf("operation %d is %s, want %s", operation, got, want)
		}
	}
	for kind, want := range map[libvirt.DomainBlockJobType]hypervisor.JobKind{
		libvirt.DOMAIN_BLOCK_JOB_TYPE_COPY:          hypervisor.JobBlockCopy,
		libvirt.DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT: hypervisor.JobBlockCommit,
		libvirt.DOMAIN_BLOCK_JOB_TYPE_PULL:          hypervisor.JobBlockPull,
		libvirt.DOMAIN_BLOCK_JOB_TYPE_BACKUP:        hypervisor.JobOther,
	} {
		if got := kindOf(blockJobKinds, kind); got != want {
			t.Errorf("block job %d is %s, want %s", kind, got, want)
		}
	}
	for _, c := range []struct {
		info libvirt.DomainJobInfo
		want hypervisor.JobResult
	}{
		{libvirt.DomainJobInfo{Type: libvirt.DOMAIN_JOB_COMPLETED}, hypervisor.JobCompleted},
		{libvirt.DomainJobInfo{Type: libvirt.DOMAIN_JOB_COMPLETED, JobSuccessSet: true, JobSuccess: true}, hypervisor.JobCompleted},
		{libvirt.DomainJobInfo{Type: libvirt.DOMAIN_JOB_COMPLETED, JobSuccessSet: true}, hypervisor.JobFailed},
		{libvirt.DomainJobInfo{Type: libvirt.DOMAIN_JOB_FAILED}, hypervisor.JobFailed},
		{libvirt.DomainJobInfo{Type: libvirt.DOMAIN_JOB_CANCELLED, JobSuccessSet: true}, hypervisor.JobCanceled},
	} {
		if got := jobResult(c.info); got != c.want {
			t.Errorf("%v ends %s, want %s", c.info.Type, got, c.want)
		}
	}
}
