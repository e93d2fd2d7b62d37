package libvirt

import (
	"libvirt.org/go/libvirt"

	"virtmesh/agent/host/hypervisor"
)

// pick looks up a reason. A newer libvirt may have reasons that are not in the table.
func pick[K comparable](table map[K]hypervisor.Reason, key K) hypervisor.Reason {
	if r, ok := table[key]; ok {
		return r
	}
	return hypervisor.ReasonUnknown
}

// The details of lifecycle events.
var (
	startedReasons = map[libvirt.DomainEventStartedDetailType]hypervisor.Reason{
		libvirt.DOMAIN_EVENT_STARTED_BOOTED:        hypervisor.ReasonBooted,
		libvirt.DOMAIN_EVENT_STARTED_MIGRATED:      hypervisor.ReasonMigrated,
		libvirt.DOMAIN_EVENT_STARTED_RESTORED:      hypervisor.ReasonRestored,
		libvirt.DOMAIN_EVENT_STARTED_FROM_SNAPSHOT: hypervisor.ReasonRestored,
		libvirt.DOMAIN_EVENT_STARTED_WAKEUP:        hypervisor.ReasonWakeup,
	}
	suspendedReasons = map[libvirt.DomainEventSuspendedDetailType]hypervisor.Reason{
		libvirt.DOMAIN_EVENT_SUSPENDED_PAUSED:          hypervisor.ReasonUser,
		libvirt.DOMAIN_EVENT_SUSPENDED_MIGRATED:        hypervisor.ReasonMigration,
		libvirt.DOMAIN_EVENT_SUSPENDED_IOERROR:         hypervisor.ReasonIOError,
		libvirt.DOMAIN_EVENT_SUSPENDED_WATCHDOG:        hypervisor.ReasonWatchdog,
		libvirt.DOMAIN_EVENT_SUSPENDED_RESTORED:        hypervisor.ReasonRestored,
		libvirt.DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT:   hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_EVENT_SUSPENDED_POSTCOPY:        hypervisor.ReasonPostcopy,
		libvirt.DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED: hypervisor.ReasonPostcopyFailed,
		libvirt.DOMAIN_EVENT_SUSPENDED_GUEST_SHUTDOWN:  hypervisor.ReasonShutdown,
	}
	resumedReasons = map[libvirt.DomainEventResumedDetailType]hypervisor.Reason{
		libvirt.DOMAIN_EVENT_RESUMED_UNPAUSED:      hypervisor.ReasonUnpaused,
		libvirt.DOMAIN_EVENT_RESUMED_MIGRATED:      hypervisor.ReasonMigrated,
		libvirt.DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT: hypervisor.ReasonRestored,
		libvirt.DOMAIN_EVENT_RESUMED_POSTCOPY:      hypervisor.ReasonPostcopy,
	}
	stoppedReasons = map[libvirt.DomainEventStoppedDetailType]hypervisor.Reason{
		libvirt.DOMAIN_EVENT_STOPPED_SHUTDOWN:  hypervisor.ReasonShutdown,
		libvirt.DOMAIN_EVENT_STOPPED_DESTROYED: hypervisor.ReasonDestroyed,
		libvirt.DOMAIN_EVENT_STOPPED_CRASHED:   hypervisor.ReasonCrashed,
		libvirt.DOMAIN_EVENT_STOPPED_MIGRATED:  hypervisor.ReasonMigrated,
		libvirt.DOMAIN_EVENT_STOPPED_SAVED:     hypervisor.ReasonSaved,
		libvirt.DOMAIN_EVENT_STOPPED_FAILED:    hypervisor.ReasonFailed,
	}
)

// The reasons that come with the state of a domain.
var (
	runningReasons = map[libvirt.DomainRunningReason]hypervisor.Reason{
		libvirt.DOMAIN_RUNNING_BOOTED:             hypervisor.ReasonBooted,
		libvirt.DOMAIN_RUNNING_MIGRATED:           hypervisor.ReasonMigrated,
		libvirt.DOMAIN_RUNNING_RESTORED:           hypervisor.ReasonRestored,
		libvirt.DOMAIN_RUNNING_FROM_SNAPSHOT:      hypervisor.ReasonRestored,
		libvirt.DOMAIN_RUNNING_UNPAUSED:           hypervisor.ReasonUnpaused,
		libvirt.DOMAIN_RUNNING_MIGRATION_CANCELED: hypervisor.ReasonMigrationCanceled,
		libvirt.DOMAIN_RUNNING_WAKEUP:             hypervisor.ReasonWakeup,
		libvirt.DOMAIN_RUNNING_POSTCOPY:           hypervisor.ReasonPostcopy,
	}
	pausedReasons = map[libvirt.DomainPausedReason]hypervisor.Reason{
		libvirt.DOMAIN_PAUSED_USER:            hypervisor.ReasonUser,
		libvirt.DOMAIN_PAUSED_MIGRATION:       hypervisor.ReasonMigration,
		libvirt.DOMAIN_PAUSED_SAVE:            hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_SNAPSHOT:        hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_FROM_SNAPSHOT:   hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_IOERROR:         hypervisor.ReasonIOError,
		libvirt.DOMAIN_PAUSED_WATCHDOG:        hypervisor.ReasonWatchdog,
		libvirt.DOMAIN_PAUSED_STARTING_UP:     hypervisor.ReasonStarting,
		libvirt.DOMAIN_PAUSED_POSTCOPY:        hypervisor.ReasonPostcopy,
		libvirt.DOMAIN_PAUSED_POSTCOPY_FAILED: hypervisor.ReasonPostcopyFailed,
		libvirt.DOMAIN_PAUSED_DUMP:            hypervisor.ReasonSnapshot,
		libvirt.DOMAIN_PAUSED_SHUTTING_DOWN:   hypervisor.ReasonShutdown,
		libvirt.DOMAIN_PAUSED_CRASHED:         hypervisor.ReasonCrashed,
	}
	shutoffReasons = map[libvirt.DomainShutoffReason]hypervisor.Reason{
		libvirt.DOMAIN_SHUTOFF_SHUTDOWN:  hypervisor.ReasonShutdown,
		libvirt.DOMAIN_SHUTOFF_DESTROYED: hypervisor.ReasonDestroyed,
		libvirt.DOMAIN_SHUTOFF_CRASHED:   hypervisor.ReasonCrashed,
		libvirt.DOMAIN_SHUTOFF_MIGRATED:  hypervisor.ReasonMigrated,
		libvirt.DOMAIN_SHUTOFF_SAVED:     hypervisor.ReasonSaved,
		libvirt.DOMAIN_SHUTOFF_FAILED:    hypervisor.ReasonFailed,
		libvirt.DOMAIN_SHUTOFF_DAEMON:    hypervisor.ReasonMissed,
	}
)

// domainState translates the state and reason of a domain.
func domainState(state libvirt.DomainState, reason int) (hypervisor.State, hypervisor.Reason) {
	switch state {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED:
		return hypervisor.StateRunning, pick(runningReasons, libvirt.DomainRunningReason(reason))
	case libvirt.DOMAIN_PAUSED:
		return hypervisor.StatePaused, pick(pausedReasons, libvirt.DomainPausedReason(reason))
	case libvirt.DOMAIN_SHUTDOWN:
		return hypervisor.StateShuttingDown, hypervisor.ReasonShutdown
	case libvirt.DOMAIN_SHUTOFF:
		return hypervisor.StateShutoff, pick(shutoffReasons, libvirt.DomainShutoffReason(reason))
	case libvirt.DOMAIN_CRASHED:
		return hypervisor.StateCrashed, hypervisor.ReasonCrashed
	case libvirt.DOMAIN_PMSUSPENDED:
		return hypervisor.StateSuspended, hypervisor.ReasonUnknown
	}
	return hypervisor.StateUnknown, hypervisor.ReasonUnknown
}

func watchdogAction(a libvirt.DomainEventWatchdogAction) string {
	switch a {
	case libvirt.DOMAIN_EVENT_WATCHDOG_PAUSE:
		return "pause"
	case libvirt.DOMAIN_EVENT_WATCHDOG_RESET:
		return "reset"
	case libvirt.DOMAIN_EVENT_WATCHDOG_POWEROFF:
		return "poweroff"
	case libvirt.DOMAIN_EVENT_WATCHDOG_SHUTDOWN:
		return "shutdown"
	case libvirt.DOMAIN_EVENT_WATCHDOG_DEBUG:
		return "debug"
	case libvirt.DOMAIN_EVENT_WATCHDOG_INJECTNMI:
		return "inject-nmi"
	}
	return "none"
}
