package hypervisor

import (
	"context"
	"io"
	"net"

	machine "virtmesh/agent/vmi"
)

// Ref names one incarnation of an instance. Two instances that bore the same name
// one after the other differ in UID.
type Ref struct {
	Namespace, Name, UID string
}

// String returns namespace/name, as logs and errors name the instance.
func (r Ref) String() string { return r.Namespace + "/" + r.Name }

// maxDomainName leaves room in a file name for the suffixes that libvirt adds to the
// name of a domain, in the names of its log and of its devices' files.
const maxDomainName = 200

// DomainName returns the name of the domain that runs r.
func (r Ref) DomainName() string {
	return machine.BoundedName(r.Namespace+"_"+r.Name, maxDomainName)
}

// Hypervisor runs the guests of one host. A caller that needs only a part of it takes
// the interface of that part.
type Hypervisor interface {
	Inventory
	Lifecycle
	Recorder
	Devices
	Resizer
	Jobs
	Consoles
	Freezer
	Observer
	// Close ends the connection and all subscriptions, and waits a limited time for
	// calls in progress; the error names the calls that did not end in time. Guests
	// keep running.
	Close() error
}

// Inventory describes the host and lists our domains.
type Inventory interface {
	// Capabilities describes the host. It takes seconds the first time, and again after
	// the daemon was restarted or the emulator replaced by an upgrade; otherwise the
	// answer comes from memory, so callers need not cache it. The result shares maps
	// and slices with other callers, so the caller must not change them.
	Capabilities(ctx context.Context) (Capabilities, error)
	// List returns our domains, running or not, in no particular order. An agent adopts
	// these domains when it starts, and compares them with its claims after an
	// EventResync.
	List(ctx context.Context) ([]Domain, error)
	// Get returns one domain, or ErrNotFound.
	Get(ctx context.Context, ref Ref) (Domain, error)
	// Subscribe delivers the events of our domains from now on, until ctx ends or the
	// hypervisor is closed; then the channel is closed. A subscriber that is too slow,
	// or that is cut off from the daemon, loses events. After a loss it receives an
	// EventResync, and must then call List.
	Subscribe(ctx context.Context) <-chan Event
}

// Consoles opens the console and the display of running guests.
type Consoles interface {
	// Console opens the first serial console. A new session ends the one before it.
	// What the guest wrote earlier is not repeated. The caller closes it.
	Console(ctx context.Context, ref Ref) (io.ReadWriteCloser, error)
	// VNC opens a connection that speaks RFB with the guest's display. The caller
	// closes it.
	VNC(ctx context.Context, ref Ref) (net.Conn, error)
	// Screenshot returns what the first display shows, as PNG. wake moves the pointer first,
	// to end a screen saver.
	Screenshot(ctx context.Context, ref Ref, wake bool) ([]byte, error)
}

// Freezer freezes guests' file systems, through the guests' agents. While they are frozen,
// programs in the guest that write wait. A call that asks for what is so already succeeds.
type Freezer interface {
	// Freeze has the guest write what it holds back, and freezes all its file systems. After
	// an error they are not frozen, as far as the agent still answers.
	Freeze(ctx context.Context, ref Ref) error
	// Thaw ends a Freeze.
	Thaw(ctx context.Context, ref Ref) error
}

// Observer reads what guests report and what the hypervisor counts for them.
type Observer interface {
	// GuestInfo asks the guest's agent. The guest controls the answer and may send
	// false, late or excessive data. Lengths, counts and times are bounded and strings
	// are valid UTF-8, but the content must not be trusted.
	GuestInfo(ctx context.Context, ref Ref) (GuestInfo, error)
	// Stats returns the counters of all our running domains. A domain whose emulator
	// does not answer in time is left out, so that it does not delay the others.
	Stats(ctx context.Context) ([]Stats, error)
}

// Domain is what is known of one domain.
type Domain struct {
	Owner Owner
	// UUID is the domain's UUID in the hypervisor. The machine UUID that the guest sees
	// may differ.
	UUID   string
	State  State
	Reason Reason
	// AgentConnected says whether the guest's agent has opened its channel.
	AgentConnected bool
	// Disks maps volume names to target names such as vda. MemoryBytes is the memory
	// that the balloon leaves the guest. Both are empty for a domain that is shut off.
	// The receiver must not change Disks.
	Disks       map[string]string
	MemoryBytes int64
	// MemoryLimit is how many bytes the emulator may have (LimitMemory); 0 if it has no
	// limit, and for a domain that is shut off.
	MemoryLimit int64
	// User is the uid that the emulator runs as; 0 if it is not known, and for a domain
	// that is shut off.
	User uint32
	// Records are the small facts that SetRecord wrote, by name; nil when there are
	// none. The receiver must not change them.
	Records map[string]string
	// Persistent is false for a domain that will vanish when its guest ends, such as
	// one that arrived in a migration that did not complete.
	Persistent bool
	// Warnings is set by Start only. Each warning names a part of the definition that
	// the host cannot honour, and the field of the instance that asks for it.
	Warnings []string
}
