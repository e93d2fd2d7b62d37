package hypervisor

// Capabilities describe what the host can run.
type Capabilities struct {
	// HostUUID is the hypervisor's identity for migrations.
	HostUUID string
	// HypervisorVersion and LibraryVersion are dotted, as "7.2.22" and "9.0.0".
	HypervisorVersion, LibraryVersion string
	Arch                              string
	Emulator                          string
	// KVM says that the hypervisor offers hardware virtualization. Package kvmprobe
	// tests whether guests really run with it.
	KVM         bool
	CPUs        int
	MemoryBytes int64
	// NUMANodes lists the host's memory and CPUs by node.
	NUMANodes []NUMANode
	// Machines are the emulated machines, in the hypervisor's order; aliases such as
	// q35 are among them.
	Machines []MachineType
	// MaxVCPUs is the most CPUs a guest of the machine q35 may have. Machines has the
	// number of each.
	MaxVCPUs int
	// HostModel is the named CPU model nearest to the host's, HostFeatures what must
	// be added to it. They are empty where host-model is not supported.
	HostModel    string
	HostVendor   string
	HostFeatures []string
	// CPUModels are the named models a guest can be given here.
	CPUModels []string
	// HugepageSizes are in KiB.
	HugepageSizes []uint64
	// EFI and SecureBoot say whether such firmware is installed, TPM whether guests
	// can be given one.
	EFI, SecureBoot, TPM bool
	// SecurityModels are what the hypervisor confines emulators with, such as "apparmor"
	// and "dac" (users and file modes).
	SecurityModels []string
	// MemoryEncryption names the technologies for confidential guests: "sev", "tdx".
	MemoryEncryption []string
}

// MachineType is one emulated machine.
type MachineType struct {
	// Name may be used in a definition. Canonical is the machine that Name stands for
	// now: Name itself, or another machine when Name is an alias. The meaning of an
	// alias may change with an upgrade of the emulator.
	Name, Canonical string
	// MaxVCPUs is the most CPUs a guest of it may have; zero when that is not known.
	MaxVCPUs int
	// Deprecated says that a later version of the emulator will no longer have the
	// machine.
	Deprecated bool
}

// Machine finds a machine by its name or alias.
func (c Capabilities) Machine(name string) (MachineType, bool) {
	for _, m := range c.Machines {
		if m.Name == name {
			return m, true
		}
	}
	return MachineType{}, false
}

// MachineTypes lists the names of the Machines, aliases too.
func (c Capabilities) MachineTypes() []string {
	names := make([]string, 0, len(c.Machines))
	for _, m := range c.Machines {
		names = append(names, m.Name)
	}
	return names
}

// NUMANode is one of the host's memory nodes.
type NUMANode struct {
	ID          int
	MemoryBytes int64
	CPUs        []int
	// Hugepages is the number of reserved pages by size in KiB.
	Hugepages map[uint64]int64
}

// GuestInfo is what the agent in a guest reports. Any field may be empty: agents differ
// in what they report.
type GuestInfo struct {
	// AgentVersion is the version of the agent, and Commands are the commands that it
	// knows.
	AgentVersion string
	Commands     []GuestCommand
	Hostname     string
	OS           GuestOS
	Timezone     string
	TZOffset     int // seconds east of UTC
	Users        []GuestUser
	Filesystems  []GuestFilesystem
	Interfaces   []GuestInterface
	// Truncated says that the guest reported more than the bounds allow, and the rest
	// was dropped.
	Truncated bool
}

// GuestCommand is a command that the guest's agent knows. The guest's administrator may
// have disabled it.
type GuestCommand struct {
	Name    string
	Enabled bool
}

// GuestOS describes the operating system in a guest.
type GuestOS struct {
	ID, Name, PrettyName, Version, VersionID string
	KernelRelease, KernelVersion, Machine    string
}

// GuestUser is a session in the guest.
type GuestUser struct {
	Name, Domain string
	LoginTime    float64 // seconds since 1970
}

// GuestFilesystem is a mounted file system.
type GuestFilesystem struct {
	Mountpoint, Name, Type string
	TotalBytes, UsedBytes  uint64
	Disks                  []GuestDisk
}

// GuestDisk is a disk below a file system.
type GuestDisk struct {
	Device, Serial, BusType string
}

// GuestInterface is a network interface as the guest sees it.
type GuestInterface struct {
	Name, MAC string
	// Addresses are in CIDR notation.
	Addresses []string
}

// Stats are the counters of one running domain. They start at zero when the domain's
// process starts.
type Stats struct {
	Ref   Ref
	State State
	CPU   CPUStats
	// Memory comes from the balloon driver and from the host.
	Memory MemoryStats
	Disks  []DiskStats
	NICs   []NICStats
}

// CPUStats are in nanoseconds.
type CPUStats struct {
	Time, User, System uint64
	VCPUs              []VCPUStats
}

// VCPUStats count one virtual CPU; Wait and Delay are in nanoseconds too.
type VCPUStats struct {
	ID                uint
	Running           bool
	Time, Wait, Delay uint64
}

// MemoryStats are in bytes and page faults. The fields after RSS come from the guest
// and are zero without a balloon driver in it.
type MemoryStats struct {
	Current, Maximum, RSS               uint64
	Available, Unused, Usable, Cache    uint64
	SwapIn, SwapOut                     uint64
	MajorFaults, MinorFaults            uint64
	HugetlbAllocations, HugetlbFailures uint64
}

// DiskStats count one disk, times in nanoseconds.
type DiskStats struct {
	// Name is the target in the domain, as vda; Alias the volume's name.
	Name, Alias                          string
	ReadRequests, ReadBytes, ReadTime    uint64
	WriteRequests, WriteBytes, WriteTime uint64
	FlushRequests, FlushTime             uint64
	Allocation, Capacity, Physical       uint64
}

// NICStats count one network interface, as the guest sees the directions.
type NICStats struct {
	// Name is the host's device; Alias the interface's name.
	Name, Alias                           string
	RxBytes, RxPackets, RxErrors, RxDrops uint64
	TxBytes, TxPackets, TxErrors, TxDrops uint64
}
