package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/join"
	"virtmesh/agent/objects/claims"
	"virtmesh/raftstore"
)

// featureLevel is the newest set of rules and formats that this version knows.
const featureLevel = 1

// Init makes a new mesh with this machine as its first host. It writes the
// identity first and the configuration last, so that a host either belongs to
// a mesh or does not.
func Init(configPath string, config Config, version string) error {
	if err := checkUnused(configPath, config); err != nil {
		return err
	}
	_, err := identity.InitMesh(config.StateDir, identity.InitOptions{
		Host: config.Name, MeshAddress: config.MeshAddress(), GossipAddress: config.gossipAddress(),
		SANs: config.sans(), Lifetime: time.Duration(config.CertificateLifetime),
	})
	if err != nil {
		return fmt.Errorf("make a mesh: %w", err)
	}
	return saveOrUndo(configPath, config)
}

// Join makes this machine a host of the mesh that the token is for, through
// the host at address. On any error nothing is left behind but a private key
// that makes a repeated attempt recognisable.
func Join(ctx context.Context, configPath string, config Config, address, token, version string) error {
	if err := checkUnused(configPath, config); err != nil {
		return err
	}
	parsed, err := identity.ParseToken(token)
	if err != nil {
		return fmt.Errorf("join the mesh: %w", err)
	}
	options := join.DefaultOptions()
	options.Dir = config.StateDir
	options.Addresses = []string{address}
	options.Token = parsed
	options.Host = config.Name
	options.MeshAddress, options.GossipAddress = config.MeshAddress(), config.gossipAddress()
	options.SANs = config.sans()
	options.Version, options.FeatureLevel = version, featureLevel
	options.Logger = slog.New(slog.DiscardHandler)
	if err := join.Join(ctx, options); err != nil {
		return fmt.Errorf("join the mesh at %s: %w", address, err)
	}
	return saveOrUndo(configPath, config)
}

// checkUnused refuses a host that belongs to a mesh already, before anything
// is written or a token is used up.
func checkUnused(configPath string, config Config) error {
	if err := config.Validate(); err != nil {
		return err
	}
	initialised, err := identity.Initialised(config.StateDir)
	if err != nil {
		return fmt.Errorf("look at %s: %w", config.StateDir, err)
	}
	if _, err := os.Stat(configPath); initialised || err == nil {
		return fmt.Errorf("%w: %s; 'virtmesh agent leave' takes it out", identity.ErrInitialised, config.Name)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("look at %s: %w", configPath, err)
	}
	return nil
}

func saveOrUndo(configPath string, config Config) error {
	if err := config.Save(configPath); err != nil {
		return errors.Join(err, identity.RemoveState(config.StateDir))
	}
	return nil
}

// Recover makes this host the only voter after a quorum was lost for good. The
// agent must not be running.
func Recover(ctx context.Context, config Config) (raftstore.Recovered, error) {
	cfg := config.storeConfig()
	cfg.Logger = slog.New(slog.DiscardHandler)
	recovered, err := raftstore.RecoverCluster(ctx, cfg)
	if err != nil {
		return recovered, fmt.Errorf("recover the mesh from this host: %w", err)
	}
	return recovered, nil
}

// storeConfig is what a running store and a recovery have in common.
func (c Config) storeConfig() raftstore.Config {
	cfg := raftstore.DefaultConfig()
	cfg.NodeID, cfg.Addr = c.Name, c.MeshAddress()
	cfg.DataDir = c.raftDir()
	cfg.Constraints = claims.Rules()
	return cfg
}

func (c Config) gossipAddress() string {
	return net.JoinHostPort(c.Advertise, strconv.Itoa(c.GossipPort))
}

// sans are the names besides the usual ones by which API clients know this host.
func (c Config) sans() []string { return []string{c.Advertise} }

// certificateNames are the names that this host's certificate must have.
func (c Config) certificateNames() []string { return identity.NodeSANs(c.MeshAddress(), c.sans()) }

func (c Config) raftDir() string { return filepath.Join(c.StateDir, "raft") }
