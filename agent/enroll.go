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

	"virtmesh/agent/claims"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/enrol"
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
	options := enrol.DefaultOptions()
	options.Dir = config.StateDir
	options.Addresses = []string{address}
	options.Token = parsed
	options.Host = config.Name
	options.MeshAddress, options.GossipAddress = config.MeshAddress(), config.gossipAddress()
	options.SANs = config.sans()
	options.Version, options.FeatureLevel = version, featureLevel
	options.Logger = slog.New(slog.DiscardHandler)
	if err := enrol.Join(ctx, options); err != nil {
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

// Resync throws this host's copy of the mesh's state away, so that its agent
// fetches a new one from the other hosts. The agent must not be running. It
// refuses on a host that knows no other one, whose copy is all there is.
func Resync(config Config) error {
	info, err := identity.ReadInfo(config.StateDir)
	if err != nil {
		return err
	}
	if len(info.Seeds) == 0 {
		return fmt.Errorf("%s knows no other host that has the mesh's state, so its own copy stays; 'virtmesh agent recover --backup FILE' restores a backup", config.Name)
	}
	if err := raftstore.Empty(config.raftDir()); err != nil {
		return fmt.Errorf("throw this host's copy away: %w", err)
	}
	return nil
}

// withRemedy adds the command that helps when a replica cannot be used as it is.
func withRemedy(err error) error {
	if errors.Is(err, raftstore.ErrReplaced) || errors.Is(err, raftstore.ErrCorruptLog) {
		return fmt.Errorf("%w; stop the agent, run 'virtmesh agent resync --yes' and start it again: it then fetches the state from the other hosts", err)
	}
	return err
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
