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
	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// FeatureLevel is the newest set of rules and formats that this version knows.
const FeatureLevel = 1

// Places and ports of an agent that the command line knows without asking it.
const (
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

// Config says what this host is called, where it keeps its state and how others
// reach it. It is a part of the agent's configuration file, where durations are
// strings such as "24h".
type Config struct {
	// Name is the host's name in the mesh, a DNS label. It cannot change.
	Name string `json:"name"`
	// StateDir holds identity, replicated store, images and volumes.
	StateDir string `json:"stateDir"`
	// RunDir holds the administration socket and other volatile files.
	RunDir string `json:"runDir"`
	// Zone is the failure domain, for voter and instance spreading.
	Zone string `json:"zone,omitempty"`
	// MeshListen is the address the mesh port listens on.
	MeshListen string `json:"meshListen"`
	// Advertise is the IP address that other hosts reach this one by.
	Advertise string `json:"advertise"`
	// GossipPort is the same on all hosts of a mesh.
	GossipPort int `json:"gossipPort"`
	// MetricsListen is the address for /metrics and /healthz; empty for none.
	MetricsListen string `json:"metricsListen"`
	// CertificateLifetime is how long this host's certificates are valid;
	// they renew at two thirds of it.
	CertificateLifetime Duration `json:"certificateLifetime"`
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

// DefaultConfig is the configuration of a host that lacks a name and an address.
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

// Validate names every setting that cannot work.
func (c Config) Validate() error {
	var errs []error
	invalid := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{field}, args...)...))
	}
	if err := identity.ValidateHostName(c.Name); err != nil {
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
	return errors.Join(errs...)
}

// MeshAddress is where other hosts reach this one's mesh port.
func (c Config) MeshAddress() string {
	_, port, err := net.SplitHostPort(c.MeshListen)
	if err != nil {
		port = strconv.Itoa(DefaultMeshPort)
	}
	return net.JoinHostPort(c.Advertise, port)
}

// GossipAddress is where other hosts reach this one's gossip.
func (c Config) GossipAddress() string {
	return net.JoinHostPort(c.Advertise, strconv.Itoa(c.GossipPort))
}

// Socket is the path of the local administration socket.
func (c Config) Socket() string { return filepath.Join(c.RunDir, filepath.Base(DefaultSocket)) }

// sans are the names besides the usual ones by which API clients know this host.
func (c Config) sans() []string { return []string{c.Advertise} }

// certificateNames are the names that this host's certificate must have.
func (c Config) certificateNames() []string { return identity.NodeSANs(c.MeshAddress(), c.sans()) }

// raftDir holds this host's copy of the mesh's state.
func (c Config) raftDir() string { return filepath.Join(c.StateDir, "raft") }

// storeConfig is what a running store and a recovery have in common.
func (c Config) storeConfig(log *slog.Logger) raftstore.Config {
	cfg := raftstore.DefaultConfig()
	cfg.NodeID, cfg.Addr = c.Name, c.MeshAddress()
	cfg.DataDir = c.raftDir()
	cfg.Constraints = claims.Rules()
	cfg.Logger = log
	return cfg
}
