// Package guests carries the requests that only the host running an instance
// can serve: its console, display and forwarded ports, pause, reboot and the like,
// requests to the guest agent, and the offer that a host makes before an instance is placed on it.
//
// Any host accepts such a request and forwards it to the right host over the mesh
// port, as HTTP over the "virtmesh-rpc" protocol; hosts are authenticated by
// their mesh certificates before a request is read. Streams are HTTP upgrades: after the
// 101 answer the connection carries raw bytes, or packets (UDP) with their lengths.
//
// Errors are faults: fault.NotFound for an instance that does not exist or is not on
// that host, NotRunning, NoGuestAgent, Conflict for a state that does not allow the
// request, Unreachable for a host that does not answer, and NotImplemented for a host whose
// version does not know the request.
//
// The package does not depend on libvirt, placement or the API: it serves and calls
// the interfaces Instances and Offerer. Router has the same methods as the local
// implementation, so callers need not know where an instance runs.
package guests

import (
	"context"
	"io"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
)

// StreamKind names a byte stream of a guest.
type StreamKind string

// The streams of a guest.
const (
	// Console is the first serial port.
	Console StreamKind = "console"
	// VNC is the graphical display in the RFB protocol.
	VNC StreamKind = "vnc"
	// Forward is a connection to a port of the guest.
	Forward StreamKind = "forward"
)

// The protocols of forwarded connections.
const (
	TCP = "tcp"
	// UDP is a stream of packets: each Write sends one, and each Read receives one.
	UDP = "udp"
)

// StreamRequest says which stream of a guest to open.
type StreamRequest struct {
	Kind StreamKind
	// Preserve is for the VNC display alone: if somebody else has it open, the request
	// fails with fault.Conflict, and does not end his session.
	Preserve bool
	// Protocol, TCP or UDP, and Port are for Forward alone.
	Protocol string
	Port     uint16
}

// Instances acts on running instances. All methods may be called concurrently.
// namespace and name identify the VirtualMachineInstance.
type Instances interface {
	// Stream opens a byte stream of a running guest. The caller closes it; it ends with
	// the guest. A console and a display have one session at a time: a new one ends the
	// one before it.
	Stream(ctx context.Context, namespace, name string, request StreamRequest) (io.ReadWriteCloser, error)
	// Pause stops the guest's virtual CPUs; it keeps its memory.
	Pause(ctx context.Context, namespace, name string) error
	// Unpause resumes a paused guest.
	Unpause(ctx context.Context, namespace, name string) error
	// Reboot asks the guest to boot anew, as far as it is willing to.
	Reboot(ctx context.Context, namespace, name string) error
	// Reset boots the guest anew at once, as a reset button does.
	Reset(ctx context.Context, namespace, name string) error
	// Screenshot returns what the guest's display shows, as PNG. wake moves the pointer
	// first, to end a screen saver.
	Screenshot(ctx context.Context, namespace, name string, wake bool) ([]byte, error)
	GuestAgents
}

// GuestAgents acts through the agents within guests. All methods fail with
// fault.NoGuestAgent if the agent is not connected.
type GuestAgents interface {
	// Freeze has the guest flush and freeze its file systems, and unfreezes them after
	// the time limit if nobody has done so before; 0 is no limit.
	Freeze(ctx context.Context, namespace, name string, limit time.Duration) error
	// Unfreeze lets the guest write to its file systems again.
	Unfreeze(ctx context.Context, namespace, name string) error
	// GuestOSInfo asks about the operating system.
	GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error)
	// Users asks which users are logged in.
	Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error)
	// Filesystems asks which file systems are mounted.
	Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error)
}

// Offerer decides whether this host would run an instance now.
type Offerer interface {
	Offer(ctx context.Context, request claims.OfferRequest) (claims.Offer, error)
}
