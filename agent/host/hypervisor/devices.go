package hypervisor

import "context"

// Devices changes the devices of running guests. A device is known by the name it has
// in its instance (the volume's, the interface's), which its definition carries as the
// alias AliasPrefix+name. Changes hold for the running guest and for its definition
// alike. All methods fail with ErrNotRunning when the guest does not run: a guest that
// is off gets its devices with the next Start. They fail with ErrUnsupported when
// hypervisor or machine cannot change such a device while the guest runs.
type Devices interface {
	// AttachDevice plugs a device in. device is one element as it stands below
	// <devices>. When it returns, the guest can see the device; whether it uses it is
	// the guest's affair. A domain that has a device of that name is left as it is.
	AttachDevice(ctx context.Context, ref Ref, device string) error
	// DetachDevice asks the guest to let go of a device and returns without waiting.
	// EventDeviceRemoved tells when it has, EventDeviceKept that it will not; a guest
	// that is silent keeps the device, maybe until it reboots. Until EventDeviceRemoved
	// the guest may read and write the device. LiveDefinition tells too whether it is
	// still there. Asking again is allowed. A device that is not there is no error, and
	// no event follows.
	DetachDevice(ctx context.Context, ref Ref, name string) error
	// UpdateDevice changes what can be changed of a device that is there: a drive's
	// medium, an interface's link state, a memory device's requested size. device is
	// the whole new element. It fails with ErrNoDevice when there is no such device.
	UpdateDevice(ctx context.Context, ref Ref, device string) error
	// LiveDefinition returns the running domain's definition as it is now, with what
	// was plugged, addresses and aliases, without passwords. It is at most
	// MaxDefinition bytes long.
	LiveDefinition(ctx context.Context, ref Ref) (string, error)
}

// MaxDefinition bounds what LiveDefinition returns, in bytes. A domain with some
// hundred devices has a tenth of it.
const MaxDefinition = 1 << 20

// Resizer changes the size of running guests, and of their definition. All methods
// fail with ErrNotRunning when the guest does not run, and with ErrInvalid for sizes
// that the domain was not made for. A size that is reached already is no error.
type Resizer interface {
	// SetVCPUs gives the guest count CPUs, up to the definition's maximum. New CPUs are
	// there when it returns. Taking CPUs away needs the guest's consent, for which it
	// waits some seconds: ErrRefused says that the guest did not give it; it may later.
	SetVCPUs(ctx context.Context, ref Ref, count int) error
	// SetMemory gives the guest that much memory, in bytes. Up to the memory the guest
	// booted with the balloon takes and gives it; above, a virtio-mem device of the
	// domain does, in steps of the device's block size, rounded up. It returns when the
	// guest has been asked; Stats tells what it has (MemoryStats.Current).
	SetMemory(ctx context.Context, ref Ref, bytes int64) error
	// ResizeBlock makes the disk of a volume bytes long and tells the guest. The file
	// grows with it; a block device must have grown before. Disks do not shrink:
	// ErrInvalid. It fails with ErrNoDevice when no disk has that volume.
	ResizeBlock(ctx context.Context, ref Ref, volume string, bytes int64) error
}
