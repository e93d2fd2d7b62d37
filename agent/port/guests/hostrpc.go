// Package guests carries the requests that only the host running an instance
// can serve: its console and display, pause and unpause, what the guest agent
// says, and the offer a host makes before an instance is placed on it.
//
// A request that arrives at any host is sent on to the right one over the mesh
// port, as HTTP over the "virtmesh-rpc" protocol; peers are authenticated by
// their mesh certificates before a request is read. Consoles and displays are
// HTTP upgrades: after the 101 answer the connection carries raw bytes.
//
// Errors are faults: fault.NotFound for an instance that does not exist, or not on
// that host, NotRunning, NoGuestAgent, Conflict for a state that does not allow the
// request, Unreachable for a host that does not answer.
//
// The package knows nothing of libvirt, placement or the API: the Instances
// and the Offerer that it serves and calls are interfaces, and Router has the same
// methods as the local side, so callers do not see where an instance runs.
package guests

import (
	"context"
	"io"

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
)

// Instances acts on instances. All methods may be called at once; namespace
// and name identify the VirtualMachineInstance.
type Instances interface {
	// Stream opens a byte stream of a running guest. The caller closes it.
	Stream(ctx context.Context, namespace, name string, kind StreamKind) (io.ReadWriteCloser, error)
	// Pause stops the guest's virtual CPUs; its memory stays.
	Pause(ctx context.Context, namespace, name string) error
	// Unpause lets a paused guest go on.
	Unpause(ctx context.Context, namespace, name string) error
	// GuestOSInfo asks the guest agent about the operating system.
	GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error)
	// Users asks the guest agent who is logged in.
	Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error)
	// Filesystems asks the guest agent what is mounted.
	Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error)
}

// Offerer answers whether this host would take an instance now.
type Offerer interface {
	Offer(ctx context.Context, request claims.OfferRequest) (claims.Offer, error)
}
