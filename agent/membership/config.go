package membership

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/hostname"
	"virtmesh/agent/hostseal"
	"virtmesh/agent/hostseal/tpm"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// Paths and ports of an agent that the command line knows without asking the agent.
const (
	// DefaultStateDir holds everything that an agent must keep across restarts.
	DefaultStateDir = "/var/lib/virtmesh"
	// DefaultSocket is the local administration socket.
	DefaultSocket = "/run/virtmesh/agent.sock"
	// DefaultMeshPort carries API, Raft and agent-to-agent traffic (TCP).
	DefaultMeshPort = 7443
	// DefaultGossipPort carries gossip (TCP and UDP).
	DefaultGossipPort = 7946
	// DefaultMetricsAddress serves metrics and health without credentials.
	DefaultMetricsAddress = "127.0.0.1:7480"
)

// Config holds this host's name, where it stores its state and how other hosts reach
// it. It is a part of the agent's configuration file, where durations are strings such
// as "24h".
type Config struct {
	// Name is the host's name in the mesh, a DNS label. It cannot change.
	Name string `json:"name"`
	// StateDir holds identity, replicated store, images and volumes.
	StateDir string `json:"stateDir"`
	// RunDir holds the administration socket and other volatile files.
	RunDir string `json:"runDir"`
	// Zone is the failure domain. Voters and instances are spread over zones.
	Zone string `json:"zone,omitempty"`
	// MeshListen is the address the mesh port listens on.
	MeshListen string `json:"meshListen"`
	// Advertise is the IP address by which other hosts reach this one.
	Advertise string `json:"advertise"`
	// GossipPort is the same on all hosts of a mesh.
	GossipPort int `json:"gossipPort"`
	// MetricsListen is the address for /metrics and /healthz; empty disables them.
	MetricsListen string `json:"metricsListen"`
	// CertificateLifetime is how long this host's certificates are valid; they are
	// renewed at two thirds of it.
	CertificateLifetime Duration `json:"certificateLifetime"`
	// Keyring says how this host keeps its part of the mesh's keyring.
	Keyring KeyringConfig `json:"keyring,omitzero"`
}

// KeyringConfig says how a host keeps its part of the mesh's keyring.
type KeyringConfig struct {
	// Seal is with what it is encrypted on disk; empty: hostseal.Auto.
	Seal hostseal.Choice `json:"seal,omitempty"`
}

// Duration is a time.Duration that is written to and read from JSON as a string.
type Duration time.Duration

// MarshalJSON writes the duration in the form "24h0m0s".
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

// DefaultConfig returns a complete configuration except for the name and the address of
// the host.
func DefaultConfig() Config {
	return Config{
		StateDir:            DefaultStateDir,
		RunDir:              filepath.Dir(DefaultSocket),
		MeshListen:          ":" + strconv.Itoa(DefaultMeshPort),
		GossipPort:          DefaultGossipPort,
		MetricsListen:       DefaultMetricsAddress,
		CertificateLifetime: Duration(24 * time.Hour),
	}
}

// Validate returns an error that names every invalid setting.
func (c Config) Validate() error {
	var errs []error
	invalid := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	if err := hostname.Validate(c.Name); err != nil {
		invalid("name", "%w", err)
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
	if !filepath.IsAbs(c.StateDir) {
		invalid("stateDir", "%q is not an absolute path", c.StateDir)
	}
	if !filepath.IsAbs(c.RunDir) {
		invalid("runDir", "%q is not an absolute path", c.RunDir)
	}
	if time.Duration(c.CertificateLifetime) < time.Second {
		invalid("certificateLifetime", "must be at least 1s")
	}
	if err := c.Keyring.Seal.Validate(); err != nil {
		invalid("keyring.seal", "%w", err)
	}
	return errors.Join(errs...)
}

// seals returns what seals the keyring of this host.
func (c Config) seals() *hostseal.Seals {
	return hostseal.Open(c.StateDir, hostseal.Options{Choice: c.Keyring.Seal, Chip: tpm.New(tpm.DefaultDevice)})
}

// MeshAddress returns the address at which other hosts reach this host's mesh port.
func (c Config) MeshAddress() string {
	_, port, err := net.SplitHostPort(c.MeshListen)
	if err != nil {
		port = strconv.Itoa(DefaultMeshPort)
	}
	return net.JoinHostPort(c.Advertise, port)
}

// GossipAddress returns the address at which other hosts reach this host's gossip.
func (c Config) GossipAddress() string {
	return net.JoinHostPort(c.Advertise, strconv.Itoa(c.GossipPort))
}

// Socket returns the path of the local administration socket.
func (c Config) Socket() string { return filepath.Join(c.RunDir, filepath.Base(DefaultSocket)) }

// sans returns the names, besides the usual ones, by which API clients know this host.
func (c Config) sans() []string { return []string{c.Advertise} }

// certificateNames returns the names that this host's certificate must have.
func (c Config) certificateNames() []string { return identity.NodeSANs(c.MeshAddress(), c.sans()) }

// raftDir returns the directory of this host's copy of the mesh's state.
func (c Config) raftDir() string { return filepath.Join(c.StateDir, "raft") }

// ballastFiles is how much room is set aside for the mesh's state on a disk that guests may
// fill, in files of the log: 136 MiB.
const ballastFiles = 8

// storeConfig returns the configuration that a running store and a recovery share.
func (c Config) storeConfig(log *slog.Logger) raftstore.Config {
	cfg := raftstore.DefaultConfig()
	cfg.NodeID, cfg.Addr = c.Name, c.MeshAddress()
	cfg.DataDir = c.raftDir()
	cfg.FeatureLevel, cfg.Constraints = level.Known(), claims.Rules()
	cfg.Logger, cfg.Remedy = log, resyncRemedy
	cfg.Limits.BallastFiles = ballastFiles
	return cfg
}
