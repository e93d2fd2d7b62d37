package hypervisor

import "time"

// EventKind says what an Event reports.
type EventKind string

// The kinds of events, with the fields they set besides Ref, Time and Kind.
const (
	// EventState: the domain is now in State because of Reason.
	EventState EventKind = "state"
	// EventUndefined: the domain is no longer defined.
	EventUndefined EventKind = "undefined"
	// EventAgent: the guest's agent connected or disconnected, as Connected says.
	EventAgent EventKind = "agent"
	// EventReboot: the guest rebooted.
	EventReboot EventKind = "reboot"
	// EventIOError: the disk of the volume named by Device failed; Detail says how. When that
	// stopped the guest an EventState follows.
	EventIOError EventKind = "io-error"
	// EventWatchdog: the guest's watchdog fired; Detail is the action taken.
	EventWatchdog EventKind = "watchdog"
	// EventMigration: a migration made progress; Detail is its iteration or phase.
	EventMigration EventKind = "migration"
	// EventJob: the job Job has reached Result. For a block job, Device names the
	// volume. For a failed job, Detail says why, if that is known. The disk copies of a
	// migration are reported as separate block jobs. A job on the domain as a whole is
	// certain to be reported only if it completes.
	EventJob EventKind = "job"
	// EventDeviceRemoved: the guest has released the device named by Device, and the
	// domain no longer has it.
	EventDeviceRemoved EventKind = "device-removed"
	// EventDeviceKept: the guest refuses to release the device named by Device.
	EventDeviceKept EventKind = "device-kept"
	// EventResync: events were lost. Ref is empty; the subscriber must call List.
	EventResync EventKind = "resync"
)

// Event is one thing that happened. Events of one domain arrive in order.
type Event struct {
	Kind      EventKind
	Ref       Ref
	Time      time.Time
	State     State
	Reason    Reason
	Connected bool
	// Device is the name of a volume, interface or other device in the instance.
	Device string
	Detail string
	Job    JobKind
	Result JobResult
}
