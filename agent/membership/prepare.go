package membership

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/enrol"
	"virtmesh/raftstore"
)

// ConfigFile is the agent's configuration file. Its presence means that the host
// belongs to a mesh, so it is written last and removed last.
type ConfigFile struct {
	// Path is where the file is.
	Path string
	// Save writes the file atomically.
	Save func(path string) error
}

// Init makes a new mesh with this machine as its first host. It writes the identity
// first and the configuration last, so that a host either belongs to a mesh or does
// not. keepBundle writes the recovery bundle of the mesh to where it is kept; nil: none is made
// now.
func Init(config Config, file ConfigFile, keepBundle func(identity.Bundle) error) error {
	if err := checkUnused(config, file.Path); err != nil {
		return err
	}
	_, err := identity.InitMesh(config.StateDir, identity.InitOptions{
		Host: config.Name, MeshAddress: config.MeshAddress(), GossipAddress: config.GossipAddress(),
		SANs: config.sans(), Lifetime: time.Duration(config.CertificateLifetime), KeepBundle: keepBundle, Seals: config.seals(),
	})
	if err != nil {
		return fmt.Errorf("make a mesh: %w", err)
	}
	return saveOrUndo(config, file)
}

// Invitation holds what a machine needs to find and join a mesh.
type Invitation struct {
	// Address is the mesh address of any host of the mesh, "host:port".
	Address string
	// Token is the join token in its printed form.
	Token string
	// Version is the version of the program on this machine.
	Version string
	// GuestNetwork gets the range of the addresses of the mesh's guests ("" if the mesh keeps
	// none) before the token is used, and returns the range that this host will use, or a
	// fault if guests cannot have it here.
	GuestNetwork func(mesh string) (own string, err error)
}

// Join makes this machine a host of the mesh that the invitation is for. After an
// error, only a private key remains on the machine, by which the mesh recognises a
// repeated attempt.
func Join(ctx context.Context, config Config, file ConfigFile, invitation Invitation) error {
	if err := checkUnused(config, file.Path); err != nil {
		return err
	}
	parsed, err := identity.ParseToken(invitation.Token)
	if err != nil {
		return fmt.Errorf("join the mesh: %w", err)
	}
	options := enrol.DefaultOptions()
	options.Dir = config.StateDir
	options.Addresses = []string{invitation.Address}
	options.Token, options.GuestNetwork = parsed, invitation.GuestNetwork
	options.Host = config.Name
	options.MeshAddress, options.GossipAddress = config.MeshAddress(), config.GossipAddress()
	options.SANs = config.sans()
	options.Version, options.Levels = invitation.Version, level.Known()
	if err := enrol.Join(ctx, options); err != nil {
		return fmt.Errorf("join the mesh at %s: %w", invitation.Address, err)
	}
	return saveOrUndo(config, file)
}

// checkUnused returns an error if the host already belongs to a mesh, before anything
// is written or a token is used up.
func checkUnused(config Config, configPath string) error {
	initialised, err := identity.Initialised(config.StateDir)
	if err != nil {
		return fmt.Errorf("check %s: %w", config.StateDir, err)
	}
	if _, err := os.Stat(configPath); initialised || err == nil {
		return fmt.Errorf("%w: %s; 'virtmesh agent leave' takes it out, and if the mesh has removed it already, 'virtmesh agent leave --local --yes'", identity.ErrInitialised, config.Name)
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("check %s: %w", configPath, err)
	}
	return nil
}

func saveOrUndo(config Config, file ConfigFile) error {
	if err := file.Save(file.Path); err != nil {
		return errors.Join(err, identity.RemoveState(config.StateDir))
	}
	return nil
}

// forgetMembership deletes the files that make this machine a host of a mesh. Images
// and volumes stay.
func forgetMembership(config Config, configPath string) error {
	if err := identity.RemoveState(config.StateDir); err != nil {
		return err
	}
	if err := os.RemoveAll(config.raftDir()); err != nil {
		return fmt.Errorf("remove the replica: %w", err)
	}
	if err := os.Remove(configPath); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the configuration: %w", err)
	}
	return nil
}

// Forget deletes what makes this machine a host without telling the mesh, for a machine
// that the mesh has removed. The agent must not be running.
func Forget(config Config, configPath string) error {
	member, err := identity.Initialised(config.StateDir)
	if err != nil {
		return fmt.Errorf("check %s: %w", config.StateDir, err)
	}
	if _, err := os.Stat(configPath); !member && errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("this machine belongs to no mesh: there is neither an identity in %s nor %s", config.StateDir, configPath)
	}
	// This fails if an agent uses the copy.
	if err := raftstore.Empty(config.raftDir()); err != nil {
		return stopFirst(err)
	}
	return forgetMembership(config, configPath)
}

// stopFirst adds to the error of an act that needs the agent's files that the agent must
// be stopped, if it runs.
func stopFirst(err error) error {
	if errors.Is(err, raftstore.ErrLocked) {
		return fmt.Errorf("%w; this host's agent runs: stop it first ('systemctl stop virtmesh')", err)
	}
	return err
}

// Resync deletes this host's copy of the mesh's state, so that its agent fetches a new
// one from the other hosts. The agent must not be running. Resync refuses on a host
// that knows no other host, because its copy may be the only one.
func Resync(config Config) error {
	info, err := identity.ReadInfo(config.StateDir)
	if err != nil {
		return err
	}
	if len(info.Seeds) == 0 {
		return fmt.Errorf("%s knows no other host that has the mesh's state, so its own copy stays; 'virtmesh agent recover --backup FILE' restores a backup", config.Name)
	}
	if err := raftstore.Empty(config.raftDir()); err != nil {
		return fmt.Errorf("delete this host's copy: %w", stopFirst(err))
	}
	// Who has no copy takes what the hosts of the mesh's CA say: the list of voters from before
	// may be why the copy was of no use.
	return identity.ForgetManifest(config.StateDir)
}

// resyncRemedy is what helps when this host's copy cannot be used any more.
const resyncRemedy = "stop the agent, run 'virtmesh agent resync --yes' and start it again: it then fetches the state from the other hosts"
