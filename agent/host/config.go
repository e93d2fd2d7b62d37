package host

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"virtmesh/agent/host/network"
	"virtmesh/agent/hostname"
	"virtmesh/netplug"
	"virtmesh/storage/ephemeral"
	"virtmesh/storage/program"
)

// Config is what an operator can set for the guests of one host. It is a part
// of the agent's configuration file.
type Config struct {
	// Role is what the host does: RoleWorker, for which an empty Role stands too, or
	// RoleWitness. The other settings are those of a worker.
	Role       string           `json:"role,omitempty"`
	Hypervisor HypervisorConfig `json:"hypervisor"`
	Capacity   CapacityConfig   `json:"capacity"`
	Network    NetworkConfig    `json:"network"`
	Images     ImageConfig      `json:"images"`
	// Pools are the directories that PersistentVolumeClaims live in.
	Pools []PoolConfig `json:"pools"`
}

// The roles of a host.
const (
	// RoleWorker runs guests.
	RoleWorker = "worker"
	// RoleWitness is a part of the mesh, may vote, and runs no guests. It needs neither
	// libvirt nor QEMU. A mesh of two workers and a witness goes on without either of them.
	RoleWitness = "witness"
)

// HypervisorConfig says how guests run.
type HypervisorConfig struct {
	// URI is the libvirt connection.
	URI string `json:"uri"`
	// Acceleration is auto (probe KVM and fall back to emulation), kvm (use
	// it without a probe) or tcg (always emulate).
	Acceleration string `json:"acceleration"`
	// User is the unprivileged user that libvirt runs QEMU as if a guest has no user of its
	// own. Emulators have its group.
	User string `json:"user"`
	// GuestUIDs are the uids that guests are given, one each, and the programs that convert
	// images; without it, they are those of DefaultGuestUIDs. They must be nobody's on this
	// host.
	GuestUIDs ephemeral.UserRange `json:"guestUIDs,omitzero"`
	// WithoutAppArmor has guests start although the host's kernel has AppArmor and libvirt
	// gives guests no profiles.
	WithoutAppArmor bool `json:"withoutAppArmor,omitempty"`
	// ShutdownSeconds bounds how long a shutdown of the host waits for its guests; 0 stands
	// for defaultShutdown. What an instance grants its guest counts within it.
	ShutdownSeconds int64 `json:"shutdownSeconds,omitempty"`
}

// The time that guests have when their host is shut down: by default, and at most. systemd gives
// a shutdown half an hour, and then reboots or switches off whatever still runs (JobTimeoutSec of
// reboot.target and poweroff.target); the agent's end and lastPatience count within it.
const (
	defaultShutdown = 5 * time.Minute
	maxShutdown     = 25 * time.Minute
)

// shutdownLimit is how long a shutdown of the host waits for its guests, also by a configuration
// that Validate refuses.
func (c HypervisorConfig) shutdownLimit() time.Duration {
	if c.ShutdownSeconds <= 0 || c.ShutdownSeconds > int64(maxShutdown/time.Second) {
		return defaultShutdown
	}
	return time.Duration(c.ShutdownSeconds) * time.Second
}

// UIDs returns the uids that are given to guests and converters.
func (c HypervisorConfig) UIDs() ephemeral.UserRange {
	if c.GuestUIDs == (ephemeral.UserRange{}) {
		return DefaultGuestUIDs
	}
	return c.GuestUIDs
}

// leastUIDs is the smallest range of UIDs that is enough for guests and converters.
const leastUIDs = 1 << 16

func (c HypervisorConfig) validateUIDs() error {
	all := c.UIDs()
	if all.Count < leastUIDs {
		return fmt.Errorf("count: %d is less than %d", all.Count, leastUIDs)
	}
	return all.Validate()
}

// converterUIDs is how many of the first of the UIDs are for converters.
const converterUIDs = 1 << 12

// guestUIDs returns those of the UIDs that are for guests.
func (c HypervisorConfig) guestUIDs() ephemeral.UserRange {
	all := c.UIDs()
	return ephemeral.UserRange{First: all.First + converterUIDs, Count: all.Count - converterUIDs}
}

// converters returns the users of programs that convert images, which have a group by which
// they can read images.
func (c HypervisorConfig) converters(group uint32) *program.Users {
	return program.NewUsers(c.UIDs().First, converterUIDs, group)
}

// CapacityConfig says how much of the host its guests may use.
type CapacityConfig struct {
	// ReservedMemoryBytes is kept from guests for the host itself.
	ReservedMemoryBytes int64 `json:"reservedMemoryBytes"`
	// ReservedDiskBytes is what must be free in the file system of the host's state, and of
	// a pool, for new images, disks and volumes to be made there; of a small file system, a
	// tenth must be.
	ReservedDiskBytes int64 `json:"reservedDiskBytes"`
}

// NetworkConfig describes the default guest network.
type NetworkConfig struct {
	// PodCIDR is cut into one subnet per host for the guests' default network.
	PodCIDR string `json:"podCIDR"`
	// Domain is the DNS domain of guests.
	Domain string `json:"domain"`
	// Bridges connect guests to the networks that the host's interfaces are
	// on; NetworkAttachmentDefinitions name them, and may name no others.
	Bridges []BridgeConfig `json:"bridges,omitempty"`
	// ProtectedNetworks are IPv4 networks that guests of the default network may not open
	// connections to, and that images are not fetched from, besides the hosts' own and
	// link-local addresses.
	ProtectedNetworks []netip.Prefix `json:"protectedNetworks,omitempty"`
	// AllowedNetworks are IPv4 networks that are open all the same.
	AllowedNetworks []netip.Prefix `json:"allowedNetworks,omitempty"`
	// ConnectionsPerGuest is how many connections a guest of the default network may have
	// through its host, and to it, at a time; 0 for any number.
	ConnectionsPerGuest int `json:"connectionsPerGuest"`
	// Router says that the host forwards traffic of others too. A host that forwarded
	// before its agent first started does so without it.
	Router bool `json:"router,omitempty"`
}

// defaultConnections is a sixteenth of what Linux has room for by default on hosts with more
// than 4 GiB of memory (nf_conntrack_max is 262,144).
const defaultConnections = 16384

// protection returns what is closed to guests and to fetches of images.
func (c NetworkConfig) protection(mesh Mesh) network.Protection {
	return network.Protection{
		Protected: mesh.ProtectedAddresses, ProtectedNetworks: c.ProtectedNetworks, AllowedNetworks: c.AllowedNetworks,
	}
}

// validate names the settings of the network that cannot work.
func (c NetworkConfig) validate() error {
	var errs []error
	if prefix, err := netip.ParsePrefix(c.PodCIDR); err != nil || !prefix.Addr().Is4() || prefix.Bits() > 22 || prefix.Bits() < 8 {
		errs = append(errs, fmt.Errorf("network.podCIDR: %q is not an IPv4 network of at least /22 and at most /8, such as 10.64.0.0/14", c.PodCIDR))
	} else if first := prefix.Masked().Addr(); !first.IsGlobalUnicast() || first.As4()[0] >= 240 || first.As4()[0] == 0 {
		errs = append(errs, fmt.Errorf("network.podCIDR: hosts cannot have addresses of %s", c.PodCIDR))
	}
	if c.ConnectionsPerGuest < 0 {
		errs = append(errs, fmt.Errorf("network.connectionsPerGuest: %d is negative", c.ConnectionsPerGuest))
	}
	for field, list := range map[string][]netip.Prefix{"protectedNetworks": c.ProtectedNetworks, "allowedNetworks": c.AllowedNetworks} {
		for i, p := range list {
			if !p.Addr().Is4() || p != p.Masked() {
				errs = append(errs, fmt.Errorf("network.%s[%d]: %s is not an IPv4 network such as 192.0.2.0/24", field, i, p))
			}
		}
	}
	return errors.Join(append(errs, c.validateBridges())...)
}

// BridgeConfig is a bridge for secondary networks.
type BridgeConfig struct {
	// Name is what a NetworkAttachmentDefinition's "bridge" says.
	Name string `json:"name"`
	// Uplink is an interface of the host without addresses of its own. Without one, the
	// bridge is one that the administrator makes and connects.
	Uplink string `json:"uplink,omitempty"`
}

// validateBridges names the bridges that cannot work. One of them would leave all guests
// without network.
func (c NetworkConfig) validateBridges() error {
	var errs []error
	bad := func(i int, format string, args ...any) {
		errs = append(errs, fmt.Errorf("network.bridges[%d]"+format, append([]any{i}, args...)...))
	}
	for i, b := range c.Bridges {
		if err := (netplug.Bridge{Name: b.Name, Uplink: b.Uplink}).Validate(); err != nil {
			bad(i, ": %w", err)
		}
		if b.Name == network.PodBridge {
			bad(i, ".name: %s is the bridge of the default network", b.Name)
		}
		for j, other := range c.Bridges[:i] {
			if b.Name == other.Name {
				bad(i, ".name: %s is already bridges[%d]", b.Name, j)
			}
			if b.Uplink != "" && b.Uplink == other.Uplink {
				bad(i, ".uplink: %s is already that of bridges[%d]", b.Uplink, j)
			}
		}
	}
	return errors.Join(errs...)
}

// ImageConfig describes the cache of container disks.
type ImageConfig struct {
	// MaxBytes bounds the cache; images in use do not count as evictable.
	MaxBytes int64 `json:"maxBytes"`
	// InsecureRegistries are host:port of registries used without TLS. They may be anywhere.
	InsecureRegistries []string `json:"insecureRegistries,omitempty"`
	// InternalRegistries are host[:port] of registries with TLS that are used although they
	// are on a host of the mesh, on this one or in a protected network.
	InternalRegistries []string `json:"internalRegistries,omitempty"`
}

// validate names the settings of images that cannot work.
func (c ImageConfig) validate() error {
	var errs []error
	for field, list := range map[string][]string{"insecureRegistries": c.InsecureRegistries, "internalRegistries": c.InternalRegistries} {
		for i, r := range list {
			if r == "" || strings.ContainsAny(r, "/@ ") {
				errs = append(errs, fmt.Errorf("images.%s[%d]: %q is not host[:port]", field, i, r))
			}
		}
	}
	return errors.Join(errs...)
}

// PoolConfig is a directory for volumes.
type PoolConfig struct {
	// Name is the StorageClass's storagePool parameter.
	Name string `json:"name"`
	Path string `json:"path"`
	// Shared is true when every host mounts the same directory there.
	Shared bool `json:"shared,omitempty"`
}

// DefaultGuestUIDs lie where systemd's list of uids and gids has nothing. They are many, so
// that a uid practically never comes back, and never is the one of another host's guest in
// a shared pool.
var DefaultGuestUIDs = ephemeral.UserRange{First: 1_900_000_000, Count: 200_000_000}

// DefaultConfig returns the settings of a host that keeps its state in stateDir.
func DefaultConfig(stateDir string) Config {
	return Config{
		Hypervisor: HypervisorConfig{URI: "qemu:///system", Acceleration: "auto", User: "libvirt-qemu"},
		Capacity:   CapacityConfig{ReservedMemoryBytes: 1 << 30, ReservedDiskBytes: 1 << 30},
		Network:    NetworkConfig{PodCIDR: netplug.DefaultGuestNetwork, Domain: "virtmesh.internal", ConnectionsPerGuest: defaultConnections},
		Images:     ImageConfig{MaxBytes: 20 << 30},
		Pools:      []PoolConfig{{Name: "local", Path: filepath.Join(stateDir, "pools", "local")}},
	}
}

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	switch c.Role {
	case "", RoleWorker, RoleWitness:
	default:
		errs = append(errs, fmt.Errorf("role: %q is not %s or %s", c.Role, RoleWorker, RoleWitness))
	}
	switch c.Hypervisor.Acceleration {
	case "auto", "kvm", "tcg":
	default:
		errs = append(errs, fmt.Errorf("hypervisor.acceleration: %q is not auto, kvm or tcg", c.Hypervisor.Acceleration))
	}
	if s := c.Hypervisor.ShutdownSeconds; s < 0 || s > int64(maxShutdown/time.Second) {
		errs = append(errs, fmt.Errorf("hypervisor.shutdownSeconds: %d is not between 0, for %d, and %d", s, int64(defaultShutdown/time.Second), int64(maxShutdown/time.Second)))
	}
	if err := c.Hypervisor.validateUIDs(); err != nil {
		errs = append(errs, fmt.Errorf("hypervisor.guestUIDs.%w", err))
	}
	if c.Capacity.ReservedDiskBytes < 0 {
		errs = append(errs, fmt.Errorf("capacity.reservedDiskBytes: %d is negative", c.Capacity.ReservedDiskBytes))
	}
	return errors.Join(append(errs, c.Network.validate(), c.Images.validate(), c.validatePools())...)
}

func (c Config) validatePools() error {
	seen := map[string]bool{}
	for i, pool := range c.Pools {
		if !hostname.IsLabel(pool.Name) || seen[pool.Name] {
			return fmt.Errorf("pools[%d].name: %q is not a DNS label or is used twice", i, pool.Name)
		}
		seen[pool.Name] = true
		if !filepath.IsAbs(pool.Path) {
			return fmt.Errorf("pools[%d].path: %q is not an absolute path", i, pool.Path)
		}
	}
	return nil
}
