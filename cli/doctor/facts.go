package doctor

import (
	"virtmesh/agent"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/netplug"
)

// Facts are what was read of a machine. Checks know nothing else of it.
type Facts struct {
	Root bool
	// ConfigPath is the agent's configuration. Member says that it is there; without it
	// Config has the defaults. ConfigErr says why it cannot be used.
	ConfigPath string
	Member     bool
	Config     agent.Config
	ConfigErr  error
	// Expelled says that the mesh has expelled this host, and which hosts told it; nil otherwise.
	Expelled *identity.Expulsion

	KVM      Virtualization
	Programs map[string]string // the path of each program that is installed, by name
	Firmware string            // the folder of the firmware for EFI; "" without it
	Libvirt  Libvirt
	QEMU     QEMU
	// TakenUIDs are the uids that accounts have, or that are set aside for containers.
	TakenUIDs []UIDs
	Modules   map[string]bool // kernel modules, loaded, built in or loadable, by name

	Filesystems []Filesystem
	Paths       []Passage
	Pools       []Pool
	Clock       Clock
	Ports       []Port
	Neighbours  Neighbours
	Routes      []netplug.Route // see network.HostRoutes
	// NameServers are the programs that take DNS queries at every address of the host.
	NameServers []string
	Service     Service
	// Status is what the host's agent says of the mesh; nil if it does not answer.
	Status *admin.Status
}

// Virtualization is what the probe of KVM found. Err says why it could not run.
type Virtualization struct {
	Usable bool
	Reason string
	Err    error
}

// Libvirt is what its daemon and its configuration say.
type Libvirt struct {
	// Version is the daemon's. Err is set when it does not answer.
	Version, Err string
	// Daemon are the settings of libvirtd.conf.
	Daemon map[string]string
	// Guests are the settings of libvirt-guests, which ends guests at the host's shutdown;
	// GuestsEnabled says that it runs then.
	Guests        map[string]string
	GuestsEnabled bool
}

// QEMU is what keeps guests' emulators apart from the host.
type QEMU struct {
	// Settings are those of libvirt's qemu.conf.
	Settings map[string]string
	// Models are the security models that libvirt confines emulators with.
	Models []string
	// AppArmor says that the kernel has it switched on.
	AppArmor bool
	// LimitsMemory says that libvirt can limit the memory of emulators.
	LimitsMemory bool
}

// UIDs are the uids from First to Last that File gives to somebody.
type UIDs struct {
	First, Last uint32
	File, Who   string
}

// Roles of file systems. A pool has the role "pool NAME".
const (
	roleState     = "state"
	roleImages    = "images"
	roleInstances = "instances"
)

// Filesystem is where files of some roles are, such as the state or a pool.
type Filesystem struct {
	Dir         string
	Roles       []string
	Free, Total int64 // bytes
	Err         error
}

// Passage is a directory of disks, as QEMU's user sees it.
type Passage struct {
	Path   string
	Closed string // the highest directory on the way that the user may not pass; "" if it may
	Err    error
}

// Pool is a pool of the configuration; Err says why it cannot be used.
type Pool struct {
	Name string
	Err  error
}

// Clock says whether the kernel's clock is synchronised, and by which service; Available is
// a service that is installed and does not run.
type Clock struct {
	Synchronised       bool
	Service, Available string
}

// Port is an address that the agent listens on.
type Port struct {
	What, Address string
	Datagrams     bool
	Err           error  // why it cannot be listened on
	Network       string // of the address that Err is about: tcp or udp
	User          string // who has it, as " by NAME (pid N)"
	Ours          bool   // this host's agent has it
}

// Neighbours are programs that filter the host's packets or manage its interfaces.
type Neighbours struct {
	UFW                         string // what 'ufw status' says; "" without ufw
	FirewalldState              string
	FirewalldZone               string // the zone of the bridge of guests
	IPTables                    string // the rules of the table filter
	BridgeFrames                bool   // frames within a bridge pass the rules of iptables too
	NetworkManager              bool   // runs
	NetworkManagerLeavesUsAlone bool
	Networkd                    bool // runs
	NetworkFiles                []NetworkFile
}

// NetworkFile is a .network file of systemd-networkd.
type NetworkFile struct{ Path, Text string }

// Service is the agent's unit on a machine with systemd.
type Service struct {
	Systemd bool
	// Taken is the unit that systemd takes, Packaged the package's; "" without one.
	Taken, Packaged string
	// Runs is the program of the unit that is taken, PackagedRuns that of the package's.
	Runs, PackagedRuns string
	Enabled            bool
	// EndsGuests says that virtmesh-shutdown waits for the host's shutdown.
	EndsGuests bool
	// GuestServices is the state of the unit that answers guests, such as "active"; "" without
	// the unit, where the agent starts the process itself.
	GuestServices string
	// HasShutdownUnit says that there is virtmesh-shutdown, and ShutdownUnit is what it would be for
	// the program that the agent's unit runs.
	HasShutdownUnit bool
	ShutdownUnit    string
}
