package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/keyring"
	"virtmesh/raftstore"
)

// Pauses of the loop that keeps the keyring. A look reads only this host's copy.
const (
	keyringPause    = 5 * time.Second
	maxKeyringPause = time.Minute
)

// openKeyring serves this host's keyring to the other hosts, and prepares to ask theirs.
func (m *Member) openKeyring(context.Context) error {
	m.voters = keyring.NewClient(keyring.ClientConfig{
		Self: m.config.Name, Voters: m.store.Voters, Heard: m.peers.heardHosts, Dial: m.dialKeyring, Speaker: m.Speaker,
	})
	own := m.newSigner().WithKeyring(m.identity.CAKey, nil)
	listener, err := m.port.Listen(port.ProtoKeyring)
	if err != nil {
		return err
	}
	log := m.log.With("part", "keyring")
	handler := keyring.NewHandler(keyring.ServerConfig{
		Self: m.config.Name, Signer: own, CAKey: m.identity.CAKey, HeldCA: m.identity.HeldCA, GossipKeys: m.identity.GossipKeyring,
		Voters: m.store.Voters, Logger: log,
	})
	rpc := port.ServeRPC(listener, port.MeetCallers(m.Speaker, log, handler), log)
	m.onClose(func(ctx context.Context) { rpc.Shutdown(ctx) })
	return nil
}

// newSigner returns a Signer over this host's copy of the state.
func (m *Member) newSigner() *identity.Signer {
	return identity.NewSigner(m.records, time.Duration(m.config.CertificateLifetime)).
		WithTokenAges(m.tokens.unchanged).WithVotes(m.store.Voters).
		WithKeptKeys(func() bool { return m.store.FeatureLevel() >= level.Apart })
}

func (m *Member) dialKeyring(ctx context.Context, host string) (net.Conn, error) {
	address, err := m.peers.Resolve(ctx, host)
	if err != nil {
		// This host may have lost its copy of the mesh's state.
		if address = m.peers.seedAddress(host); address == "" {
			return nil, err
		}
	}
	conn, err := m.port.DialHost(ctx, port.ProtoKeyring, host, address)
	if err != nil {
		return nil, err // a nil *Conn must not become a non-nil net.Conn
	}
	return conn, nil
}

// keyringKeeper moves the private key of the mesh's CA to where it belongs.
type keyringKeeper struct {
	self     string
	store    identity.Store
	identity *identity.Identity
	client   *keyring.Client
	level    func() uint32
	voters   func() []string
	leads    func() bool
	// live returns the other hosts that gossip hears, also one that is leaving.
	live func() []string
	log  *slog.Logger
}

func (m *Member) keyringKeeper() keyringKeeper {
	return keyringKeeper{
		self: m.config.Name, store: m.records, identity: m.identity, client: m.voters,
		level: m.store.FeatureLevel, voters: m.store.Voters, leads: m.store.IsLeader,
		live: m.peers.heardHosts, log: m.log.With("part", "keyring"),
	}
}

// startKeyring keeps the keyring until the member is closed.
func (m *Member) startKeyring(context.Context) error {
	keeper := m.keyringKeeper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		keeper.run(ctx)
	}()
	m.onClose(func(context.Context) {
		cancel()
		<-done
	})
	return nil
}

func (k keyringKeeper) run(ctx context.Context) {
	for pause := keyringPause; ; {
		act, err := k.step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(2*pause, maxKeyringPause)
			k.log.Warn("the keyring is not as it should be yet", "next", act.String(), "err", err, "retryIn", pause)
		default:
			pause = keyringPause
			if act != nothingToMove {
				k.log.Info("keyring changed", "did", act.String())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// step looks where the key is and makes the next move, if one is due.
func (k keyringKeeper) step(ctx context.Context) (keyringAct, error) {
	custody, err := identity.ReadCustody(ctx, k.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nothingToMove, err
	}
	act := planKeyring(k.view(custody))
	switch act {
	case keepKey:
		return act, k.identity.KeepCAKey(custody.Key)
	case fetchKey:
		return act, k.fetch(ctx)
	case withdrawKey:
		if err := k.everyVoterHolds(ctx, custody.CA); err != nil {
			return act, err
		}
		return act, identity.WithdrawCAKey(ctx, k.store)
	case dropKey:
		if err := k.everyVoterHolds(ctx, custody.CA); err != nil {
			return act, err
		}
		if slices.Contains(k.voters(), k.self) {
			return act, errors.New("this host votes now")
		}
		return act, k.identity.DropCAKey()
	}
	return act, nil
}

func (k keyringKeeper) view(custody identity.Custody) keyringView {
	held, ok := k.identity.HeldCA()
	return keyringView{
		level: k.level(), inState: custody.InState(), bundled: custody.Bundled(),
		voter: slices.Contains(k.voters(), k.self), leader: k.leads(), held: ok && held == custody.CA,
	}
}

// fetch gets the key from a voter, or from another host that still holds it, such as the
// last voter, which leaves.
func (k keyringKeeper) fetch(ctx context.Context) error {
	key, err := k.client.FetchCAKey(ctx, append(k.voters(), k.live()...))
	if err != nil {
		return err
	}
	return k.identity.KeepCAKey(key)
}

// everyVoterHolds returns an error unless all voters hold the key of a CA. They are asked:
// what they said before may not be true any more.
func (k keyringKeeper) everyVoterHolds(ctx context.Context, ca identity.Pin) error {
	voters := k.voters()
	if len(voters) == 0 {
		return errors.New("this host knows no voter")
	}
	for _, voter := range voters {
		if voter == k.self {
			continue // its own view says whether it holds the key
		}
		holding, err := k.client.Holding(ctx, voter)
		if err != nil {
			return err
		}
		if holding.CAPin != ca.String() || !holding.Voter {
			return fmt.Errorf("%s votes and does not hold the key of the CA yet", voter)
		}
	}
	// While they were asked, others may have got the vote.
	if now := k.voters(); !slices.Equal(now, voters) {
		return fmt.Errorf("%q vote now, and %q were asked for the key of the CA", now, voters)
	}
	return nil
}

// handOverPatience bounds how long a host that leaves waits for the voters to have the key.
const handOverPatience = 30 * time.Second

// handOver waits until every voter that remains holds the key, if this host holds it and the
// replicated state does not. Otherwise the key would be gone with the last voter of a mesh
// that has other hosts. It is called when this host votes no more.
func (k keyringKeeper) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	custody, err := identity.ReadCustody(ctx, k.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return err
	}
	held, ok := k.identity.HeldCA()
	if custody.InState() || !ok || held != custody.CA || len(k.live()) == 0 {
		return nil
	}
	for {
		err := k.everyVoterHolds(ctx, custody.CA)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("hand over the key of the mesh's CA: %w", err)
		case <-time.After(keyringPause / 5):
		}
	}
}

// KeyringBundle implements admin.Keyring.
func (m *Member) KeyringBundle(context.Context) (identity.Bundle, error) {
	bundle, err := m.identity.Bundle()
	if errors.Is(err, identity.ErrNoCAKey) {
		return bundle, fault.New(fault.Unavailable, "%s does not vote, and so does not hold the key of the mesh's CA", m.config.Name).
			About(m.config.Name).WithRemedy("make the recovery bundle on a voter; 'virtmesh status' names them")
	}
	return bundle, err
}

// KeyringBundleMade implements admin.Keyring.
func (m *Member) KeyringBundleMade(ctx context.Context, made time.Time) error {
	held, ok := m.identity.HeldCA()
	if !ok {
		return fault.New(fault.Conflict, "%s does not hold the key of the mesh's CA any more", m.config.Name)
	}
	return identity.RecordBundle(ctx, m.records, identity.BundleMade{CAPin: held.String(), Made: made, Host: m.config.Name})
}

var _ admin.Keyring = (*Member)(nil)

// keyringStatus returns what operators are told of the keyring.
func (m *Member) keyringStatus(ctx context.Context) (*admin.KeyringStatus, error) {
	custody, err := identity.ReadCustody(ctx, m.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if errors.Is(err, identity.ErrNotSeeded) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where the key of the CA is: %w", err)
	}
	status := &admin.KeyringStatus{CAKeyInState: custody.InState()}
	if custody.Bundle != nil {
		status.Bundle = &admin.KeyringBundle{Made: custody.Bundle.Made, Host: custody.Bundle.Host, Current: custody.Bundled()}
	}
	return status, nil
}
