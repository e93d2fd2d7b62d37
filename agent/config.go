package agent

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"virtmesh/storage/durable"
)

// Places and ports of an agent that the command line knows without asking it.
const (
	// DefaultConfigPath is the agent's configuration. It is written last by
	// init and join, so its presence means that the host belongs to a mesh.
	DefaultConfigPath = "/etc/virtmesh/agent.yaml"
	// DefaultStateDir holds everything an agent must keep.
	DefaultStateDir = "/var/lib/virtmesh"
	// DefaultSocket is the local administration socket.
	DefaultSocket = "/run/virtmesh/agent.sock"
	// DefaultMeshPort carries API, Raft and agent-to-agent traffic (TCP).
	DefaultMeshPort = 7443
	// DefaultGossipPort carries membership (TCP and UDP).
	DefaultGossipPort = 7946
	// DefaultMetricsAddress serves metrics and health without credentials.
	DefaultMetricsAddress = "127.0.0.1:7480"
)

// Config is what an operator can set for one host. Durations are strings such
// as "24h" in the file.
type Config struct {
	// Name is the host's name in the mesh, a DNS label. It cannot change.
	Name string `json:"name"`
	// StateDir holds identity, replicated store, images and volumes.
	StateDir string `json:"stateDir"`
	// RunDir holds the administration socket and other volatile files.
	RunDir string `json:"runDir"`
	// Zone is the failure domain, for voter and instance spreading.
	Zone string `json:"zone,omitempty"`
	// Labels are put on the host's Node object.
	Labels map[string]string `json:"labels,omitempty"`
	// MeshListen is the address the mesh port listens on.
	MeshListen string `json:"meshListen"`
	// Advertise is the IP address that other hosts reach this one by.
	Advertise string `json:"advertise"`
	// GossipPort is the same on all hosts of a mesh.
	GossipPort int `json:"gossipPort"`
	// MetricsListen is the address for /metrics and /healthz; empty for none.
	MetricsListen string `json:"metricsListen"`

	Hypervisor HypervisorConfig `json:"hypervisor"`
	Capacity   CapacityConfig   `json:"capacity"`
	Network    NetworkConfig    `json:"network"`
	Images     ImageConfig      `json:"images"`
	// Pools are the directories that PersistentVolumeClaims live in.
	Pools []PoolConfig `json:"pools"`
	// CertificateLifetime is how long this host's certificates are valid;
	// they renew at two thirds of it.
	CertificateLifetime Duration `json:"certificateLifetime"`
}

// HypervisorConfig says how guests run.
type HypervisorConfig struct {
	// URI is the libvirt connection.
	URI string `json:"uri"`
	// Acceleration is auto (probe KVM and fall back to emulation), kvm (use
	// it without a probe) or tcg (always emulate).
	Acceleration string `json:"acceleration"`
	// User is the unprivileged user that libvirt runs QEMU as.
	User string `json:"user"`
}

// CapacityConfig says how much of the host its guests may use.
type CapacityConfig struct {
	// ReservedMemoryBytes is kept from guests for the host itself.
	ReservedMemoryBytes int64 `json:"reservedMemoryBytes"`
}

// NetworkConfig describes the default guest network.
type NetworkConfig struct {
	// PodCIDR is cut into one subnet per host for the guests' default network.
	PodCIDR string `json:"podCIDR"`
	// Domain is the DNS domain of guests.
	Domain string `json:"domain"`
	// Bridges connect guests to the networks that the host's interfaces are
	// on; NetworkAttachmentDefinitions name them.
	Bridges []BridgeConfig `json:"bridges,omitempty"`
}

// BridgeConfig is a bridge for secondary networks.
type BridgeConfig struct {
	// Name is what a NetworkAttachmentDefinition's "bridge" says.
	Name string `json:"name"`
	// Uplink is an interface of the host without addresses of its own.
	Uplink string `json:"uplink"`
}

// ImageConfig describes the cache of container disks.
type ImageConfig struct {
	// MaxBytes bounds the cache; images in use do not count as evictable.
	MaxBytes int64 `json:"maxBytes"`
	// InsecureRegistries are host:port of registries used without TLS.
	InsecureRegistries []string `json:"insecureRegistries,omitempty"`
}

// PoolConfig is a directory for volumes.
type PoolConfig struct {
	// Name is the StorageClass's storagePool parameter.
	Name string `json:"name"`
	Path string `json:"path"`
	// Shared is true when every host mounts the same directory there.
	Shared bool `json:"shared,omitempty"`
}

// Duration is a time.Duration that reads and writes as a string.
type Duration time.Duration

// MarshalJSON writes the duration as in "24h0m0s".
func (d Duration) MarshalJSON() ([]byte, error) {
	return []byte(strconv.Quote(time.Duration(d).String())), nil
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Duration) UnmarshalJSON(data []byte) error {
	text, err := strconv.Unquote(string(data))
	if err != nil {
		return fmt.Errorf("duration %s must be a string such as \"24h\"", data)
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("read duration: %w", err)
	}
	*d = Duration(value)
	return nil
}

// DefaultConfig is the configuration of a host that only has a name and an
// address.
func DefaultConfig() Config {
	return Config{
		StateDir:            DefaultStateDir,
		RunDir:              filepath.Dir(DefaultSocket),
		MeshListen:          ":" + strconv.Itoa(DefaultMeshPort),
		GossipPort:          DefaultGossipPort,
		MetricsListen:       DefaultMetricsAddress,
		Hypervisor:          HypervisorConfig{URI: "qemu:///system", Acceleration: "auto", User: "libvirt-qemu"},
		Capacity:            CapacityConfig{ReservedMemoryBytes: 1 << 30},
		Network:             NetworkConfig{PodCIDR: "10.64.0.0/14", Domain: "virtmesh.internal"},
		Images:              ImageConfig{MaxBytes: 20 << 30},
		Pools:               []PoolConfig{{Name: "local", Path: filepath.Join(DefaultStateDir, "pools", "local")}},
		CertificateLifetime: Duration(24 * time.Hour),
	}
}

// LoadConfig reads a configuration file over the defaults. Unknown fields are
// errors: a mistyped setting must not be ignored on a host one trusts.
func LoadConfig(path string) (Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	config := DefaultConfig()
	// A list in the file replaces the default one; decoding into the default
	// would lend its fields to what the file leaves out.
	pools := config.Pools
	config.Pools = nil
	if err := refuseMeshSettings(data); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := yaml.UnmarshalStrict(data, &config); err != nil {
		return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
	}
	if config.Pools == nil {
		config.Pools = pools
	}
	if err := config.Validate(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", path, err)
	}
	return config, nil
}

var hostNamePattern = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	invalid := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	if !hostNamePattern.MatchString(c.Name) {
		invalid("name", "%q is not a DNS label (lower case letters, digits and '-', at most 63)", c.Name)
	}
	if _, err := netip.ParseAddr(c.Advertise); err != nil {
		invalid("advertise", "%q is not an IP address", c.Advertise)
	}
	if _, port, err := net.SplitHostPort(c.MeshListen); err != nil {
		invalid("meshListen", "%v", err)
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		invalid("meshListen", "%q is not a port", port)
	}
	if c.GossipPort < 1 || c.GossipPort > 65535 {
		invalid("gossipPort", "%d is not a port", c.GossipPort)
	}
	for field, value := range map[string]string{"stateDir": c.StateDir, "runDir": c.RunDir} {
		if !filepath.IsAbs(value) {
			invalid(field, "%q is not an absolute path", value)
		}
	}
	switch c.Hypervisor.Acceleration {
	case "auto", "kvm", "tcg":
	default:
		invalid("hypervisor.acceleration", "%q is not auto, kvm or tcg", c.Hypervisor.Acceleration)
	}
	if prefix, err := netip.ParsePrefix(c.Network.PodCIDR); err != nil || !prefix.Addr().Is4() || prefix.Bits() > 22 {
		invalid("network.podCIDR", "%q is not an IPv4 prefix of at most /22", c.Network.PodCIDR)
	}
	errs = append(errs, c.validatePools())
	if time.Duration(c.CertificateLifetime) < time.Second {
		invalid("certificateLifetime", "must be at least 1s")
	}
	return errors.Join(errs...)
}

// refuseMeshSettings names the settings that were a host's once and are the mesh's
// now, so that nobody believes them to have an effect in this file.
func refuseMeshSettings(data []byte) error {
	var file struct {
		Capacity map[string]any `json:"capacity"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		return nil // the strict reading says what is wrong
	}
	var errs []error
	for _, moved := range [][2]string{
		{"cpuAllocationRatio", "cpuAllocationRatio"}, {"memoryOvercommitPercent", "memoryOvercommitPercent"}, {"policy", "strategy"},
	} {
		if _, there := file.Capacity[moved[0]]; there {
			errs = append(errs, fmt.Errorf("capacity.%s: remove the line: it is a setting of the whole mesh now, spec.capacity.%s of the MeshConfig named \"mesh\" (kubectl explain meshconfig.spec.capacity)", moved[0], moved[1]))
		}
	}
	return errors.Join(errs...)
}

func (c Config) validatePools() error {
	seen := map[string]bool{}
	for i, pool := range c.Pools {
		if !hostNamePattern.MatchString(pool.Name) || seen[pool.Name] {
			return fmt.Errorf("pools[%d].name: %q is not a DNS label or is used twice", i, pool.Name)
		}
		seen[pool.Name] = true
		if !filepath.IsAbs(pool.Path) {
			return fmt.Errorf("pools[%d].path: %q is not an absolute path", i, pool.Path)
		}
	}
	return nil
}

// MeshAddress is where other hosts reach this one's mesh port.
func (c Config) MeshAddress() string {
	_, port, err := net.SplitHostPort(c.MeshListen)
	if err != nil {
		port = strconv.Itoa(DefaultMeshPort)
	}
	return net.JoinHostPort(c.Advertise, port)
}

// Socket is the path of the local administration socket.
func (c Config) Socket() string { return filepath.Join(c.RunDir, filepath.Base(DefaultSocket)) }

// Save writes the configuration for a later LoadConfig, atomically.
func (c Config) Save(path string) error {
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	// That it is there means that the host belongs to a mesh: it must survive what the
	// membership does.
	if err := durable.WriteFile(path, data, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
