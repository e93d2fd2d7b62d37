package hypervisor

import "context"

// Devices changes the devices of running guests. A device is known by the name it has
// in its instance (the volume's, the interface's), which its definition carries as the
// alias AliasPrefix+name. Changes apply to the running guest and to its stored
// definition. All methods fail with ErrNotRunning when the guest does not run: a guest
// that is off gets its devices at the next Start. They fail with ErrUnsupported when
// the hypervisor or the machine type cannot change such a device while the guest runs.
type Devices interface {
	// AttachDevice plugs a device in. device is one XML element, as it appears below
	// <devices>. When AttachDevice returns, the guest can see the device; the guest
	// decides whether it uses the device. A domain that already has a device of that
	// name is left as it is.
	AttachDevice(ctx context.Context, ref Ref, device string) error
	// DetachDevice asks the guest to release a device and returns without waiting.
	// EventDeviceRemoved reports that the guest has released it, EventDeviceKept that
	// the guest refuses to. A guest that does not respond keeps the device, maybe until
	// it reboots. Until EventDeviceRemoved the guest may read and write the device.
	// LiveDefinition also shows whether the device is still there. The call may be
	// repeated. If the domain has no such device, the call succeeds and no event
	// follows.
	DetachDevice(ctx context.Context, ref Ref, name string) error
	// UpdateDevice changes the changeable properties of an existing device: a drive's
	// medium, an interface's link state, a memory device's requested size. device is
	// the whole new element. It fails with ErrNoDevice when there is no such device.
	UpdateDevice(ctx context.Context, ref Ref, device string) error
	// LiveDefinition returns the running domain's current definition, with plugged
	// devices, addresses and aliases, and without passwords. It is at most
	// MaxDefinition bytes long.
	LiveDefinition(ctx context.Context, ref Ref) (string, error)
}

// MaxDefinition is the largest definition, in bytes, that LiveDefinition returns. A
// domain with about a hundred devices uses a tenth of it.
const MaxDefinition = 1 << 20

// Resizer changes the size of running guests and of their stored definitions. All
// methods fail with ErrNotRunning when the guest does not run, and with ErrInvalid for
// sizes outside the domain's limits. Asking for the current size is no error.
type Resizer interface {
	// SetVCPUs gives the guest count CPUs, up to the definition's maximum. New CPUs are
	// present when it returns. Removing CPUs needs the guest's cooperation, for which
	// SetVCPUs waits some seconds: ErrRefused says that the guest did not cooperate; a
	// later attempt may succeed.
	SetVCPUs(ctx context.Context, ref Ref, count int) error
	// SetMemory sets the guest's memory, in bytes. The balloon adjusts sizes up to the
	// memory that the guest booted with. Above that, a virtio-mem device of the domain
	// adds memory in steps of the device's block size, rounded up. SetMemory returns
	// when the guest has been asked; Stats reports what the guest has
	// (MemoryStats.Current). A limit of the emulator's memory grows with what such a
	// device adds, and does not shrink again: the guest gives memory back when it likes.
	SetMemory(ctx context.Context, ref Ref, bytes int64) error
	// LimitMemory limits the memory of the guest's emulator, in bytes, that of the guest
	// included. Start does so by the definition; this is for a guest that runs without,
	// because who started it was interrupted, or because it arrived in a migration. It
	// fails where the host has no means to limit memory.
	LimitMemory(ctx context.Context, ref Ref, bytes int64) error
	// ResizeBlock sets the size of a volume's disk to bytes and notifies the guest. A
	// file grows with the disk; a block device must have grown before the call. It
	// fails with ErrInvalid for a size that would shrink the disk, and with ErrNoDevice
	// when no disk has that volume.
	ResizeBlock(ctx context.Context, ref Ref, volume string, bytes int64) error
}
