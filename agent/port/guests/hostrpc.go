// Package guests carries the requests that only the host running an instance
// can serve: its console and display, pause and unpause, queries to the guest
// agent, and the offer that a host makes before an instance is placed on it.
//
// Any host accepts such a request and forwards it to the right host over the mesh
// port, as HTTP over the "virtmesh-rpc" protocol; hosts are authenticated by
// their mesh certificates before a request is read. Consoles and displays are
// HTTP upgrades: after the 101 answer the connection carries raw bytes.
//
// Errors are faults: fault.NotFound for an instance that does not exist or is not on
// that host, NotRunning, NoGuestAgent, Conflict for a state that does not allow the
// request, and Unreachable for a host that does not answer.
//
// The package does not depend on libvirt, placement or the API: it serves and calls
// the interfaces Instances and Offerer. Router has the same methods as the local
// implementation, so callers need not know where an instance runs.
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

// Instances acts on running instances. All methods may be called concurrently.
// namespace and name identify the VirtualMachineInstance.
type Instances interface {
	// Stream opens a byte stream of a running guest. The caller closes it.
	Stream(ctx context.Context, namespace, name string, kind StreamKind) (io.ReadWriteCloser, error)
	// Pause stops the guest's virtual CPUs; it keeps its memory.
	Pause(ctx context.Context, namespace, name string) error
	// Unpause resumes a paused guest.
	Unpause(ctx context.Context, namespace, name string) error
	// GuestOSInfo asks the guest agent about the operating system.
	GuestOSInfo(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error)
	// Users asks the guest agent which users are logged in.
	Users(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error)
	// Filesystems asks the guest agent which file systems are mounted.
	Filesystems(ctx context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error)
}

// Offerer decides whether this host would run an instance now.
type Offerer interface {
	Offer(ctx context.Context, request claims.OfferRequest) (claims.Offer, error)
}
