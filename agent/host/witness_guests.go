package host

import (
	"context"
	"io"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/port/guests"
)

// noGuests are the guests of a host that has none.
type noGuests struct{ host string }

var _ guests.Instances = noGuests{}

func (n noGuests) missing(namespace, name string) error {
	return fault.New(fault.NotFound, "host %s is a witness and does not run %s/%s", n.host, namespace, name)
}

// Stream implements guests.Instances.
func (n noGuests) Stream(_ context.Context, namespace, name string, _ guests.StreamRequest) (io.ReadWriteCloser, error) {
	return nil, n.missing(namespace, name)
}

// Pause implements guests.Instances.
func (n noGuests) Pause(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// Unpause implements guests.Instances.
func (n noGuests) Unpause(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// Reboot implements guests.Instances.
func (n noGuests) Reboot(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// Reset implements guests.Instances.
func (n noGuests) Reset(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// Screenshot implements guests.Instances.
func (n noGuests) Screenshot(_ context.Context, namespace, name string, _ bool) ([]byte, error) {
	return nil, n.missing(namespace, name)
}

// Freeze implements guests.GuestAgents.
func (n noGuests) Freeze(_ context.Context, namespace, name string, _ time.Duration) error {
	return n.missing(namespace, name)
}

// Unfreeze implements guests.GuestAgents.
func (n noGuests) Unfreeze(_ context.Context, namespace, name string) error {
	return n.missing(namespace, name)
}

// GuestOSInfo implements guests.GuestAgents.
func (n noGuests) GuestOSInfo(_ context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestAgentInfo, error) {
	return nil, n.missing(namespace, name)
}

// Users implements guests.GuestAgents.
func (n noGuests) Users(_ context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceGuestOSUserList, error) {
	return nil, n.missing(namespace, name)
}

// Filesystems implements guests.GuestAgents.
func (n noGuests) Filesystems(_ context.Context, namespace, name string) (*kubevirtv1.VirtualMachineInstanceFileSystemList, error) {
	return nil, n.missing(namespace, name)
}
