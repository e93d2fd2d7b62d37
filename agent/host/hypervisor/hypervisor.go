package hypervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"time"
)

// Errors that callers act upon.
var (
	// ErrNotFound: no domain of ours with that Ref.
	ErrNotFound = errors.New("no such domain")
	// ErrConflict: Start found the name or the UUID taken by another domain.
	ErrConflict = errors.New("name or uuid in use by another domain")
	// ErrNotRunning: the act needs a running guest.
	ErrNotRunning = errors.New("domain is not running")
	// ErrRunning: Undefine refuses to drop a running domain.
	ErrRunning = errors.New("domain is running")
	// ErrNoAgent: the guest's agent is not connected, or did not answer in time.
	ErrNoAgent = errors.New("guest agent not available")
	// ErrNoDevice: the domain has no console or no display to open.
	ErrNoDevice = errors.New("domain has no such device")
	// ErrUnavailable: the hypervisor's daemon cannot be reached now.
	ErrUnavailable = errors.New("hypervisor unavailable")
	// ErrMigrationLost: a migration failed after the guest had left, so that it runs on
	// neither side.
	ErrMigrationLost = errors.New("guest lost in migration")
	// ErrInvalid: the hypervisor rejects the definition. Trying again does not help.
	ErrInvalid = errors.New("domain definition rejected")
)

// Ref names one incarnation of an instance. Two instances that bore the same name
// one after the other differ in UID.
type Ref struct {
	Namespace, Name, UID string
}

// String returns namespace/name, as logs and errors name the instance.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// DomainName returns the name of the domain that runs r.
func (r Ref) DomainName() string { return r.Namespace + "_" + r.Name }

// Hypervisor runs the guests of one host.
type Hypervisor interface {
	Inventory
	Lifecycle
	Consoles
	Observer
	// Close ends the connection and all subscriptions and waits for calls under way,
	// though not for ever: the error names those that did not end in time. Guests are
	// not touched.
	Close() error
}

// Inventory tells what is there.
type Inventory interface {
	// Capabilities describes the host. It may take seconds the first time.
	Capabilities(ctx context.Context) (Capabilities, error)
	// List returns our domains, running or not, in no order. It is what an agent
	// adopts at its start and compares with its claims after EventResync.
	List(ctx context.Context) ([]Domain, error)
	// Get returns one domain, or ErrNotFound.
	Get(ctx context.Context, ref Ref) (Domain, error)
	// Subscribe delivers what happens to our domains from now on, until ctx ends or
	// the hypervisor is closed; then the channel is closed. A subscriber too slow to
	// keep up, or cut off from the daemon, loses events but is told so by an
	// EventResync after the loss, upon which it must List.
	Subscribe(ctx context.Context) <-chan Event
}

// Lifecycle acts on a domain. Each act that reaches a state it is already in
// succeeds without effect.
type Lifecycle interface {
	// Start defines the domain and starts the guest. The definition must carry our
	// metadata. A domain of the same Ref that runs already is returned as it is; one
	// that is shut off is defined anew. On error nothing stays defined that was not
	// before.
	Start(ctx context.Context, xml string, opts StartOptions) (Domain, error)
	// Shutdown asks the guest to end, as the power button does, and returns at once.
	// A guest that does not listen goes on; the caller decides when to Destroy it.
	Shutdown(ctx context.Context, ref Ref) error
	// Reboot asks the guest to boot anew. A reboot is reported by EventReboot.
	Reboot(ctx context.Context, ref Ref) error
	// Reset restarts the guest at once, as a reset button does.
	Reset(ctx context.Context, ref Ref) error
	// Destroy ends the guest at once and waits until its process is gone: after it
	// the guest writes to no disk. The domain stays defined.
	Destroy(ctx context.Context, ref Ref) error
	// Undefine drops a shut-off domain with its firmware variables and, unless
	// keepTPM, its TPM state. A domain that is not there is no error.
	Undefine(ctx context.Context, ref Ref, opts UndefineOptions) error
	// Suspend stops the guest's CPUs; Resume lets them go on.
	Suspend(ctx context.Context, ref Ref) error
	Resume(ctx context.Context, ref Ref) error
}

// StartOptions vary a Start.
type StartOptions struct {
	// Paused leaves the guest's CPUs stopped until Resume.
	Paused bool
}

// UndefineOptions vary an Undefine.
type UndefineOptions struct {
	// KeepNVRAM and KeepTPM leave the firmware's variables and the TPM's state for a
	// later domain.
	KeepNVRAM, KeepTPM bool
}

// Consoles reach into a running guest.
type Consoles interface {
	// Console opens the first serial console. A new session ends the one before it.
	// What the guest wrote earlier is not repeated. The caller closes it.
	Console(ctx context.Context, ref Ref) (io.ReadWriteCloser, error)
	// VNC opens a connection that speaks RFB with the guest's display. The caller
	// closes it.
	VNC(ctx context.Context, ref Ref) (net.Conn, error)
}

// Observer looks into guests.
type Observer interface {
	// GuestInfo asks the guest's agent. The guest writes the answer and may lie,
	// delay or flood: lengths, counts and times are bounded, strings are valid UTF-8,
	// and nothing in it may be trusted.
	GuestInfo(ctx context.Context, ref Ref) (GuestInfo, error)
	// Stats returns the counters of all our running domains.
	Stats(ctx context.Context) ([]Stats, error)
}

// Domain is what is known of one domain.
type Domain struct {
	Owner Owner
	// UUID is the hypervisor's. What the guest sees as its machine's may be another.
	UUID   string
	State  State
	Reason Reason
	// AgentConnected says whether the guest's agent has opened its channel.
	AgentConnected bool
	// Persistent is false for a domain that will vanish when its guest ends, as one
	// does that arrived by a migration that did not complete.
	Persistent bool
}

// EventKind says what an Event reports.
type EventKind string

// The kinds of events, with the fields they set besides Ref, Time and Kind.
const (
	// EventState: the domain is now in State because of Reason.
	EventState EventKind = "state"
	// EventUndefined: the domain is no longer defined.
	EventUndefined EventKind = "undefined"
	// EventAgent: the guest's agent connected, or went, as Connected says.
	EventAgent EventKind = "agent"
	// EventReboot: the guest rebooted.
	EventReboot EventKind = "reboot"
	// EventIOError: the disk of the volume named by Device failed; Detail says how. When that
	// stopped the guest an EventState follows.
	EventIOError EventKind = "io-error"
	// EventWatchdog: the guest's watchdog fired; Detail is the action taken.
	EventWatchdog EventKind = "watchdog"
	// EventMigration: a migration moved on; Detail is its iteration or phase.
	EventMigration EventKind = "migration"
	// EventResync: events were lost. Ref is empty; List what there is.
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
	Device    string
	Detail    string
}
