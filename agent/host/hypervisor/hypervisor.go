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

// maxDomainName leaves room in a file name for what libvirt adds to the name of a
// domain, for its log and the files of its devices.
const maxDomainName = 200

// DomainName returns the name of the domain that runs r.
func (r Ref) DomainName() string {
	return machine.BoundedName(r.Namespace+"_"+r.Name, maxDomainName)
}

// Hypervisor runs the guests of one host. Callers that need one part of it take that
// part's interface.
type Hypervisor interface {
	Inventory
	Lifecycle
	Recorder
	Devices
	Resizer
	Jobs
	Consoles
	Observer
	// Close ends the connection and all subscriptions and waits for calls under way,
	// though not for ever: the error names those that did not end in time. Guests are
	// not touched.
	Close() error
}

// Inventory tells what is there.
type Inventory interface {
	// Capabilities describes the host. It takes seconds the first time, and again after
	// the daemon was restarted or the emulator replaced by an upgrade; otherwise the
	// answer comes from memory, so callers may ask as often as they like instead of
	// keeping the answer. The caller must not change what the result refers to.
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
	// Stats returns the counters of all our running domains. One whose emulator does not
	// answer in time is left out: it must not hide the others.
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
	// Disks are the names by which the domain has its disks, as vda, by volume, and
	// MemoryBytes is what the balloon leaves the guest. Both are nothing for a domain
	// that is shut off. The receiver must not change Disks.
	Disks       map[string]string
	MemoryBytes int64
	// Records are the small facts that SetRecord wrote, by name; nil when there are
	// none. The receiver must not change them.
	Records map[string]string
	// Persistent is false for a domain that will vanish when its guest ends, as one
	// does that arrived by a migration that did not complete.
	Persistent bool
	// Warnings is set by Start alone: what of the definition the host cannot keep, each
	// with the field of the instance that asks for it.
	Warnings []string
}
