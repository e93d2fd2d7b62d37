package domain

import (
	v1 "kubevirt.io/api/core/v1"
)

// Input is all that a conversion depends on.
type Input struct {
	// VMI is read, never changed.
	VMI *v1.VirtualMachineInstance
	// Host and Epoch are written into the domain's metadata.
	Host  string
	Epoch uint64
	// Disks by volume name. Every disk of the VMI needs one.
	Disks map[string]Disk
	// NICs by interface name. Every interface that is not absent needs one.
	NICs map[string]NIC
	// Filesystems by name: the directories to share with the guest.
	Filesystems map[string]string
	// HostDevices by name, for gpus and hostDevices.
	HostDevices map[string]HostDevice
	// User is whom the emulator runs as and whose the disks are while it runs; nil leaves
	// that to libvirt, which has one user for all.
	User *User
	// KernelBoot holds the files of spec.domain.firmware.kernelBoot.
	KernelBoot KernelFiles
	// CPUMilli is the processor time that the guest is charged on its host, in
	// thousandths of a CPU. It sets the guest's weight relative to other guests. Zero
	// leaves the weight to libvirt.
	CPUMilli int64
	// Pinning must be set when the VMI asks for dedicated CPUs.
	Pinning *Pinning
	// VSOCKCID is the guest's context identifier when it asks for a vsock.
	VSOCKCID uint32
	Machine  HostInfo
	Paths    Paths
}

// User is a uid and a gid of the host.
type User struct {
	UID, GID uint32
	// ReachesTPM says that it can reach a socket of its own where libvirt keeps those of
	// TPMs.
	ReachesTPM bool
}

// DiskType says whether a file, a block device or a network server holds a disk's data.
type DiskType string

// The types of disks.
const (
	DiskFile    DiskType = "file"
	DiskBlock   DiskType = "block"
	DiskNetwork DiskType = "network"
)

// Disk is a volume as its host has prepared it.
type Disk struct {
	Type DiskType
	// Path of the file or block device. Empty with an empty CD-ROM drive.
	Path string
	// Network is set for DiskNetwork.
	Network *NetworkDisk
	// Format of the data: raw or qcow2. It is never probed: a guest could write a qcow2
	// header into a raw disk, and probing would then open whatever file of the host the
	// header names.
	Format string
	// Backing is the image below a qcow2 overlay. Without it the overlay stands
	// alone, whatever its header says, for the same reason.
	Backing *Disk
	// ReadOnly and Shareable are set in addition to what the VMI asks for. A SATA disk
	// cannot be shown as read-only: the guest may write to its source even if ReadOnly
	// is set, so the source must belong to that guest alone.
	ReadOnly, Shareable bool
	// HeldByMany says that other instances may have the volume at the same time, to read it,
	// whether the VMI says that it shares it or not.
	HeldByMany bool
	// DirectIO says that the file system or device supports O_DIRECT.
	DirectIO bool
	// Preallocated says that the file has no holes.
	Preallocated bool
	// NoDiscard makes QEMU ignore the guest's discards, so that a thick volume stays
	// thick.
	NoDiscard bool
	// LogicalBlockSize and PhysicalBlockSize are the volume's, for disks that match it.
	LogicalBlockSize, PhysicalBlockSize uint
}

// NetworkDisk is a disk that QEMU reaches over the network, as Ceph RBD or NBD.
type NetworkDisk struct {
	Protocol string // rbd or nbd
	Name     string // pool/image, or the export
	Hosts    []NetworkHost
	// User and SecretUUID authenticate to Ceph with a secret defined in libvirt.
	User, SecretUUID string
}

// NetworkHost is a server of a NetworkDisk: an address or a UNIX socket.
type NetworkHost struct {
	Name, Port, Socket string
}

// NIC is a network interface as its host has prepared it.
type NIC struct {
	// TapDevice is the name of an existing tap; libvirt neither creates nor removes it.
	TapDevice string
	// PCI is set instead of TapDevice to pass a virtual function through to the guest.
	PCI string
	// MAC is the address claimed for the interface.
	MAC string
	// MTU is announced to the guest unless it is zero.
	MTU int
}

// HostDevice is a device of the host that is passed through to the guest. Exactly one
// field is set.
type HostDevice struct {
	PCI  string // 0000:01:00.0
	MDev string // uuid
	USB  *USBAddress
}

// USBAddress names a device on the host's USB.
type USBAddress struct {
	Bus, Device uint
}

// KernelFiles are the files for booting without a boot loader.
type KernelFiles struct {
	Kernel, Initrd string
}

// Pinning assigns host CPUs to the guest's threads.
type Pinning struct {
	// VCPUs has one host CPU for each virtual CPU.
	VCPUs []int
	// Emulator is where QEMU's other threads run; empty means on VCPUs.
	Emulator []int
	// NUMANodes are the nodes that provide the guest's memory; empty allows any.
	NUMANodes []int
}

// HostInfo describes the host that will run the domain.
type HostInfo struct {
	// KVM selects hardware virtualization. Without it, QEMU emulates the CPU.
	KVM bool
	// Arch is libvirt's name, x86_64. Only this one is supported.
	Arch string
	// Emulator is the QEMU binary; empty leaves the choice to libvirt.
	Emulator string
	// MachineTypes that the emulator offers; empty skips the check.
	MachineTypes []string
	// Canonical maps aliases among the MachineTypes to the machines that they stand for.
	Canonical map[string]string
	// MaxCPUs a guest may have; zero skips the check.
	MaxCPUs int
	// EFI, SecureBoot and TPM say whether the host has them; a VMI that uses one is
	// refused on a host without it.
	EFI, SecureBoot, TPM bool
}

// Paths are the files that a domain needs besides its disks.
type Paths struct {
	// SerialLog receives the guest's console output; empty logs nothing.
	SerialLog string
	// AgentSocket is where libvirt makes the socket of the guest's agent; empty leaves the
	// place to libvirt.
	AgentSocket string
	// Variables keeps the variables of the firmware when the instance ends. It is only
	// used for a VMI that keeps them, and is required for it.
	Variables string
}
