package executor

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/host/domain"
	"virtmesh/agent/host/hypervisor"
	"virtmesh/agent/objects"
)

// Volumes makes the volumes of instances usable on this host.
type Volumes interface {
	// Prepare returns a disk for every volume of the instance that is a disk. It
	// may take as long as pulling an image does, returns soon after ctx ends, and
	// may be called again. A *VolumeError carries the reason and message for the
	// user. The caller calls release once the guest has opened its disks, or when
	// the guest does not start.
	Prepare(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (disks map[string]domain.Disk, release func(), err error)
	// User returns the user that the instance's emulator runs as, a uid of its own. It is
	// recorded on this host until Remove, and the same at every call.
	User(ctx context.Context, ref hypervisor.Ref) (domain.User, error)
	// AgentSocket returns the path for the socket of the guest's agent, in a folder that
	// only root may enter and that Remove deletes.
	AgentSocket(ctx context.Context, ref hypervisor.Ref) (string, error)
	// Remove deletes the disks that live only as long as the instance. It may be
	// called again, and for an instance that never had such disks.
	Remove(ctx context.Context, ref hypervisor.Ref) error
	// ImageDigests returns the digests of the container images that the instance's
	// disks were made from, by volume.
	ImageDigests(ref hypervisor.Ref) (map[string]string, error)
	// ClaimInfo describes the PersistentVolumeClaims that the instance's volumes use,
	// by volume, as the instance's status shows them. A claim that does not exist is
	// left out. With an error, the map holds the claims that could be read.
	ClaimInfo(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]*kubevirtv1.PersistentVolumeClaimInfo, error)
	// Detach adds to tx the writes that detach the instance from the
	// PersistentVolumeClaims that it uses.
	Detach(ctx context.Context, tx *objects.Tx, vmi *kubevirtv1.VirtualMachineInstance) error
	// Owners returns the instances that have disks for Remove to delete, so that
	// the disks left behind by an agent that was killed are found.
	Owners() ([]hypervisor.Ref, error)
}

// Firmware keeps what the firmware and the TPMs of machines keep between instances.
type Firmware interface {
	// Variables returns the path of the file for the variables of a machine's firmware,
	// which with secure boot is another.
	Variables(machine string, secureBoot bool) string
	// TPMStarted records that the machine's TPM, which keeps its state, has run. It may be
	// called again.
	TPMStarted(ctx context.Context, machine string) error
}

// VolumeError is a failure to prepare a volume that the user can act on.
type VolumeError struct {
	// Volume is its name in the instance.
	Volume string
	// Reason is a CamelCase word for conditions and events, such as
	// ErrImagePull.
	Reason string
	Err    error
}

// Error implements error.
func (e *VolumeError) Error() string { return "volume " + e.Volume + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *VolumeError) Unwrap() error { return e.Err }

// Network connects instances to this host's networks.
type Network interface {
	// Connect makes the network cards of the instance, and returns when they
	// can carry traffic. It may be called again.
	Connect(ctx context.Context, vmi *kubevirtv1.VirtualMachineInstance) (map[string]domain.NIC, error)
	// Interfaces describes the cards as this host knows them, in the order of
	// the specification.
	Interfaces(vmi *kubevirtv1.VirtualMachineInstance) []kubevirtv1.VirtualMachineInstanceNetworkInterface
	// Release gives the instance's addresses back.
	Release(ref hypervisor.Ref) error
}

// Config is what the executor works with. All fields are required, except
// EmulatorLogDir, the clocks, and RuntimeUser, which is 0 if guests run as root.
type Config struct {
	// Host is this host's name.
	Host  string
	Store objects.Store
	// Confirm returns once what this host knows of the mesh is certain, see
	// raftstore.Store.Confirm.
	Confirm    func(ctx context.Context) error
	Instances  *objects.Informer[*kubevirtv1.VirtualMachineInstance]
	Hypervisor hypervisor.Hypervisor
	Volumes    Volumes
	Network    Network
	Firmware   Firmware
	Events     *objects.Recorder
	// Machine describes this host to the conversion of instances to domains. An error
	// wraps hypervisor.ErrUnavailable: the host is not known yet.
	Machine func() (domain.HostInfo, error)
	// MayStart returns why no guest starts on this host now; nil if guests do. A nil
	// MayStart stands for a host on which they always do.
	MayStart func() error
	// GuestDevice is the host's network device behind which the addresses are that Network gives
	// to guests. Connections to guests' ports leave through no other.
	GuestDevice string
	// RuntimeUser is the uid of guests that have none of their own.
	RuntimeUser uint64
	// LogDir holds the guests' serial logs.
	LogDir string
	// EmulatorLogDir is where libvirt keeps a log for each domain. A log is removed
	// with its instance. If the field is empty, the logs stay.
	EmulatorLogDir string
	// Clock is where the times come from that the executor writes. BootTime measures what
	// outlives the agent, see raftstore.BootTime, which is what nil stands for.
	Clock    objects.Clock
	BootTime func() time.Duration
	Logger   *slog.Logger
}

// Validate names what is missing.
func (c Config) Validate() error {
	for _, field := range []struct {
		name    string
		missing bool
	}{
		{"Host", c.Host == ""}, {"Store", c.Store == nil}, {"Confirm", c.Confirm == nil}, {"Instances", c.Instances == nil}, {"Hypervisor", c.Hypervisor == nil},
		{"Volumes", c.Volumes == nil}, {"Network", c.Network == nil}, {"Firmware", c.Firmware == nil}, {"Machine", c.Machine == nil},
		{"Events", c.Events == nil}, {"GuestDevice", c.GuestDevice == ""}, {"Logger", c.Logger == nil},
	} {
		if field.missing {
			return fmt.Errorf("instance executor: %s is not set", field.name)
		}
	}
	if !filepath.IsAbs(c.LogDir) {
		return fmt.Errorf("instance executor: LogDir %q is not an absolute path", c.LogDir)
	}
	return nil
}
