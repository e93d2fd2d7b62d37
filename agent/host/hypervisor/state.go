package hypervisor

// State is the state of a domain.
//
//	           Start            Suspend, i/o error, migration
//	(absent) ---------> running <-------------------------> paused
//	    ^                  | ^   Resume                       |
//	    |        guest     | | reboot, reset                  |
//	    |        shuts     v |                                |
//	    |        down   shutting-down                         |
//	    |                  |                                  |
//	    |  Undefine        v   Destroy, guest ended, crash    |
//	    +-------------- shutoff, crashed <---------------------+
type State string

// The states.
const (
	// StateUnknown: the hypervisor cannot tell.
	StateUnknown State = "unknown"
	// StateRunning: the guest's CPUs run.
	StateRunning State = "running"
	// StatePaused: the guest is in memory and its CPUs are stopped.
	StatePaused State = "paused"
	// StateShuttingDown: the guest has ended and its process is about to.
	StateShuttingDown State = "shutting-down"
	// StateShutoff: there is no process; the domain is defined.
	StateShutoff State = "shutoff"
	// StateCrashed: the guest panicked and its process is kept or gone.
	StateCrashed State = "crashed"
	// StateSuspended: the guest put itself to sleep (ACPI S3).
	StateSuspended State = "pm-suspended"
)

// String returns the state's name.
func (s State) String() string { return string(s) }

// Active reports whether a process holds the domain's disks and memory. It is true for
// a domain whose state is unknown, since its process may exist.
func (s State) Active() bool { return s != StateShutoff }

// Reason says why a domain is in its state.
type Reason string

// The reasons, with the state they belong to.
const (
	ReasonUnknown Reason = "unknown"

	// Running.
	ReasonBooted            Reason = "booted"
	ReasonMigrated          Reason = "migrated" // also shut off: it went elsewhere
	ReasonRestored          Reason = "restored"
	ReasonUnpaused          Reason = "unpaused"
	ReasonMigrationCanceled Reason = "migration-canceled"
	ReasonWakeup            Reason = "wakeup"
	ReasonPostcopy          Reason = "postcopy"

	// Paused.
	ReasonUser           Reason = "user"
	ReasonMigration      Reason = "migration" // the source is stopped, or the target waits
	ReasonIOError        Reason = "io-error"
	ReasonWatchdog       Reason = "watchdog"
	ReasonStarting       Reason = "starting"
	ReasonSnapshot       Reason = "snapshot"
	ReasonPostcopyFailed Reason = "postcopy-failed"

	// Shut off. ReasonUnknown is that of a guest whose host was switched off under it.
	ReasonShutdown  Reason = "shutdown"  // the guest ended itself; also paused: it is about to
	ReasonDestroyed Reason = "destroyed" // Destroy, or a kill of the process that libvirt did
	ReasonCrashed   Reason = "crashed"   // the guest panicked or its process died; also paused
	ReasonFailed    Reason = "failed"    // the start failed, or the process died
	ReasonSaved     Reason = "saved"
	// ReasonMissed: it ended while the hypervisor's daemon was away, so nobody saw how.
	ReasonMissed Reason = "missed"
)

// String returns the reason's name.
func (r Reason) String() string { return string(r) }

// Success reports whether a shut-off domain ended because its guest shut itself down.
// Every other end is a failure, including one that nobody saw: a guest whose host lost
// power is shut off for an unknown reason. A guest that others ended did not choose to
// end either. The caller of Destroy knows the real cause better than the reason does.
func (r Reason) Success() bool { return r == ReasonShutdown || r == ReasonSaved }
