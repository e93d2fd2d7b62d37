package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"virtmesh/agent/claims"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// Recovery says how Recover and Restore go about it.
type Recovery struct {
	// Force does not ask the other hosts whether they have a leader.
	Force bool
	// Bundle is the opened recovery bundle, for a mesh whose CA key is neither in the copy
	// or the backup nor in the keyring of this host, or whose backup is encrypted. Nil: there
	// is none.
	Bundle *identity.Bundle
}

// Recover makes this host the only voter after a quorum was lost for good. The agent
// must not be running. Recover refuses while another host reports a leader, unless how says
// otherwise, and where nobody would hold the key of the mesh's CA afterwards.
func Recover(ctx context.Context, config Config, how Recovery) (raftstore.Recovered, error) {
	id, err := prepareRecovery(ctx, config, how)
	if err != nil {
		return raftstore.Recovered{}, err
	}
	recovered, err := raftstore.RecoverCluster(ctx, config.storeConfig(slog.New(slog.DiscardHandler)), founding(id, how.Bundle))
	if err != nil {
		return recovered, fmt.Errorf("recover the mesh from this host: %w", stopFirst(err))
	}
	return recovered, id.ForgetExpulsion()
}

// Restore makes this host the only voter of a mesh with the state from a backup. It is
// for a mesh of which no usable copy is left. The agent must not be running, and this
// host must have no copy of the state. It refuses what Recover refuses.
func Restore(ctx context.Context, config Config, backup io.Reader, how Recovery) (raftstore.Recovered, error) {
	id, err := prepareRecovery(ctx, config, how)
	if err != nil {
		return raftstore.Recovered{}, err
	}
	plain, err := openBackup(backup, id, how.Bundle)
	if err != nil {
		return raftstore.Recovered{}, err
	}
	cfg := config.storeConfig(slog.New(slog.DiscardHandler))
	restored, err := raftstore.RestoreBackup(ctx, cfg, plain, founding(id, how.Bundle))
	if errors.Is(err, raftstore.ErrHasState) {
		return restored, fmt.Errorf("%w; move it away first: mv %s %[2]s.old", err, cfg.DataDir)
	}
	if err != nil {
		return restored, fmt.Errorf("restore the mesh on this host: %w", stopFirst(err))
	}
	return restored, id.ForgetExpulsion()
}

// prepareRecovery takes the recovery bundle, if there is one, and returns the identity of this
// host, or an error if this host must not found a new group.
func prepareRecovery(ctx context.Context, config Config, how Recovery) (*identity.Identity, error) {
	if err := mustNotRun(config); err != nil {
		return nil, err
	}
	id, err := identity.OpenSealed(config.StateDir, config.seals())
	if err != nil {
		return nil, err
	}
	// First of all: with the key this host can renew its certificate, and so ask the others.
	if how.Bundle != nil {
		if err := id.TakeBundle(*how.Bundle); err != nil {
			return nil, err
		}
	}
	return id, mayFound(ctx, config, how.Force)
}

// errNoKeyLeft refuses a recovery after which no host could admit others or renew a
// certificate: within a day no two hosts would speak to each other.
func errNoKeyLeft(id *identity.Identity) error {
	return fault.New(fault.Conflict, "the key of the mesh's CA is neither in this copy of the mesh's state nor on %s: only the voters held it", id.Host()).About(id.Host()).
		WithRemedy("repeat with --keyring-bundle FILE; without the bundle, recover on a host that was a voter, " +
			"or make one from its state directory: 'virtmesh keyring bundle --state-dir DIR --output FILE'")
}

// lostSecretKeys returns the names of the keys for Secrets that a state needs and the host does
// not hold: the active one, and older ones that something is still encrypted with.
func lostSecretKeys(state raftstore.View, id *identity.Identity) ([]string, error) {
	raw, ok := state.Get(identity.KeySecretKeys)
	if !ok {
		return nil, nil
	}
	keys, err := identity.ParseSecretKeys(raw.Value)
	if err != nil || keys.Active == "" {
		return nil, err
	}
	needed := []string{keys.Active}
	for _, kind := range sealed.Kinds() {
		state.Ascend(kind.Prefix(), func(rec raftstore.Record) bool {
			// A name that is not listed is no key of the mesh: nobody could open it before either.
			if with := sealed.KeyOf(rec.Expand()); slices.Contains(keys.IDs(), with) && !slices.Contains(needed, with) {
				needed = append(needed, with)
			}
			return true
		})
	}
	held := id.SecretKeyIDs()
	return slices.DeleteFunc(needed, func(key string) bool { return slices.Contains(held, key) }), nil
}

// errNoSecretKeyLeft refuses a recovery after which nobody could read some Secrets.
func errNoSecretKeyLeft(id *identity.Identity, keys []string) error {
	return fault.New(fault.Conflict, "Secrets are encrypted with the key %s, which is not on %s: only the voters held it", strings.Join(keys, " and the key "), id.Host()).About(id.Host()).
		WithRemedy("repeat with --keyring-bundle FILE and a recovery bundle that has this key: for this copy the newest one, for a backup one from its time; without it, recover on a host that was a voter, " +
			"or make a bundle from its state directory: 'virtmesh keyring bundle --state-dir DIR --output FILE'")
}

// errRemovedHere refuses a recovery after which the only voter is a machine that its mesh bars.
func errRemovedHere(id *identity.Identity) error {
	return fault.New(fault.Conflict, "%s is no host of the mesh by this state any more: it was removed before the state was written", id.Host()).About(id.Host()).
		WithRemedy("recover on a host that was not removed, or repeat with --backup FILE and a backup from before the removal")
}

// founding returns the first writes of a mesh that is recovered on the host with an identity,
// which takes the keys that the state has for a recovery bundle (nil: there is none). It refuses
// a state that bars the host, or whose CA key, or key for Secrets, nobody would hold.
func founding(id *identity.Identity, bundle *identity.Bundle) raftstore.Founding {
	return func(state raftstore.View, began uint64) ([]raftstore.Op, error) {
		if _, removed := state.Get(identity.DepartedPrefix + id.Node().ID); removed {
			return nil, errRemovedHere(id)
		}
		if err := takeRecovered(state, id, bundle); err != nil {
			return nil, err
		}
		lost, err := lostSecretKeys(state, id)
		if err != nil {
			return nil, err
		}
		if len(lost) > 0 {
			return nil, errors.Join(append(id.Shut(), errNoSecretKeyLeft(id, lost))...)
		}
		changes := beginTimeline(state, began)
		// Last: it changes what the host trusts.
		raw, ok := state.Get(identity.KeyCA)
		if !ok {
			return changes, nil
		}
		withCA, err := id.RecoverCA(raw)
		if errors.Is(err, identity.ErrNoCAKey) {
			return nil, errors.Join(append(id.Shut(), errNoKeyLeft(id))...)
		}
		return append(changes, withCA...), err
	}
}

// beginTimeline returns the first writes of a recovered mesh. All hosts that its copy
// records are put into quarantine, this one too.
func beginTimeline(state raftstore.View, began uint64) []raftstore.Op {
	var hosts []string
	state.Ascend(identity.HostsPrefix, func(rec raftstore.Record) bool {
		hosts = append(hosts, strings.TrimPrefix(rec.Key, identity.HostsPrefix))
		return true
	})
	return claims.BeginTimeline(state, began, hosts)
}

// Bounds of the question whether another host still has a leader. A host that starts
// may take a moment to answer.
const (
	probeTimeout = 10 * time.Second
	probePause   = 500 * time.Millisecond
	// leaderSilence is for how long a host may not have heard from its leader and still
	// report one. Elections take less.
	leaderSilence = 5 * time.Second
)

// mustNotRun returns an error if the agent of this host runs.
func mustNotRun(config Config) error {
	if conn, err := net.Dial("unix", config.Socket()); err == nil {
		return errors.Join(errors.New("this host's agent is running: stop it first ('systemctl stop virtmesh')"), conn.Close())
	}
	return nil
}

// mayFound returns an error if this host must not found a new group of the replicated
// store: the other hosts have a leader. A new group replaces theirs, so
// every one of them would stop when it meets it.
func mayFound(ctx context.Context, config Config, force bool) error {
	if force {
		return nil
	}
	m := newMember(config, Options{Logger: slog.New(slog.DiscardHandler)})
	if err := m.openIdentity(ctx); err != nil {
		return err
	}
	// A host that was off for a day could not talk to the others.
	if err := m.renewExpired(ctx); err != nil {
		return fmt.Errorf("ask the other hosts whether they have a leader: %w", err)
	}
	return m.othersMustBeLost(ctx)
}

// othersMustBeLost asks all other hosts that this one has an address of. A host whose
// machine does not even accept a connection is lost. One that accepts it must say that it
// has no leader.
func (m *Member) othersMustBeLost(ctx context.Context) error {
	cfg := port.DefaultConfig()
	// Nothing connects to this port: it is there to dial with the host's certificate.
	cfg.Bind, cfg.Credentials = "127.0.0.1:0", m.identity
	dialer, err := port.New(cfg)
	if err != nil {
		return fmt.Errorf("ask the other hosts whether they have a leader: %w", err)
	}
	defer dialer.Close()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	seeds := m.identity.Info().Seeds
	refusals := make([]error, len(seeds))
	var asking sync.WaitGroup
	for i, seed := range seeds {
		asking.Go(func() { refusals[i] = mustBeLost(ctx, dialer, seed) })
	}
	asking.Wait()
	refusals = slices.DeleteFunc(refusals, func(err error) bool { return err == nil })
	if len(refusals) == 0 {
		return nil
	}
	return fmt.Errorf("the mesh may not be lost: %w", errors.Join(refusals...))
}

// mustBeLost returns an error if a host has a leader, or answers and does not say whether
// it has.
func mustBeLost(ctx context.Context, dialer *port.Port, seed identity.Seed) error {
	for {
		alive, err := askForLeader(ctx, dialer, seed.MeshAddress)
		var dial *net.OpError
		switch {
		case errors.As(err, &dial) && dial.Op == "dial":
			return nil
		case err == nil && alive:
			return fmt.Errorf("%s, at %s, has a leader: if only this host is cut off or its copy is bad, run 'virtmesh agent resync --yes' instead, and start the agent", seed.Host, seed.MeshAddress)
		case err == nil:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s, at %s, answers, and does not say whether it has a leader: stop its agent, or repeat with --force: %w", seed.Host, seed.MeshAddress, err)
		case <-time.After(probePause):
		}
	}
}

func askForLeader(ctx context.Context, dialer *port.Port, address string) (bool, error) {
	conn, err := dialer.DialHost(ctx, port.ProtoStore, "", address)
	if err != nil {
		return false, err
	}
	alive, err := raftstore.HearsLeader(conn, leaderSilence)
	return alive, errors.Join(err, conn.Close())
}
