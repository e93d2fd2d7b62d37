package membership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/membership/succession"
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
	if err := m.openVault(); err != nil {
		return err
	}
	own := m.newSigner().WithKeyring(m.identity.CAKeyOf, nil)
	listener, err := m.port.Listen(port.ProtoKeyring)
	if err != nil {
		return err
	}
	log := m.log.With("part", "keyring")
	handler := keyring.NewHandler(keyring.ServerConfig{
		Self: m.config.Name, Signer: own, CAKeyOf: m.identity.CAKeyOf, HeldCA: m.identity.HeldCA, HeldCAs: m.identity.HeldCAs, GossipKeys: m.identity.GossipKeyring,
		SecretKeys: m.identity.SecretKeys, ListedSecretKeys: m.listedSecretKeys, KnownBundle: m.identity.KnownBundle, Recoverable: m.recoverable, BackupFor: m.backupByKeyring, Recorded: m.peers.recorded,
		SignToken: m.signTokenHere, Voters: m.store.Voters, Logger: log,
	})
	rpc := port.ServeRPC(listener, port.MeetCallers(m.Speaker, log, handler), log)
	m.onClose(func(ctx context.Context) { rpc.Shutdown(ctx) })
	return nil
}

// newSigner returns a Signer over this host's copy of the state.
func (m *Member) newSigner() *identity.Signer {
	return identity.NewSigner(m.records, time.Duration(m.config.CertificateLifetime)).
		WithTokenAges(m.tokens.unchanged).WithVotes(m.store.Voters).
		WithTrust(m.identity.CABundle).WithVoterKeys(m.isImpostor).
		WithKeptKeys(func() bool { return m.store.FeatureLevel() >= level.Apart }).
		WithOwnRecords(func() bool { return m.store.FeatureLevel() >= level.Access })
}

// isImpostor reports whether another machine votes under the name of this one, by what the voters
// have signed.
func (m *Member) isImpostor(node identity.Node, key identity.Pin) bool {
	if m.lists.keeper == nil {
		return false // there is no replica, and no list
	}
	v, _ := m.lists.keeper.Judge(node, key)
	return v == succession.Impostor
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
	// voted are the hosts that this one has seen voting.
	voted *sync.Map
	log   *slog.Logger
}

func (m *Member) keyringKeeper() keyringKeeper {
	return keyringKeeper{
		self: m.config.Name, store: m.records, identity: m.identity, client: m.voters,
		level: m.store.FeatureLevel, voters: m.store.Voters, leads: m.store.IsLeader,
		live: m.peers.heardHosts, voted: &m.voted, log: m.log.With("part", "keyring"),
	}
}

// startKeyring keeps the keyring until the member is closed.
func (m *Member) startKeyring(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	var keeping sync.WaitGroup
	keeping.Go(func() { repeatStep(ctx, m.log.With("part", "keyring"), m.keyringKeeper().step) })
	keeping.Go(func() { repeatStep(ctx, m.log.With("part", "keyring"), m.secretsKeeper().step) })
	keeping.Go(func() { repeatStep(ctx, m.log.With("part", "keyring"), m.tokenKeysKeeper().step) })
	keeping.Go(func() { repeatStep(ctx, m.log.With("part", "keyring"), m.demotedKeeper().step) })
	keeping.Go(func() { repeatStep(ctx, m.log.With("part", "keyring"), m.escrowKeeper().step) })
	m.onClose(func(context.Context) {
		cancel()
		keeping.Wait()
	})
	return nil
}

// keeperAct is what a step of a keeper did; zero is nothing.
type keeperAct interface {
	~int
	String() string
}

// repeatStep takes the steps of a keeper until ctx ends.
func repeatStep[A keeperAct](ctx context.Context, log *slog.Logger, step func(context.Context) (A, error)) {
	for pause := keyringPause; ; {
		act, err := step(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			pause = min(2*pause, maxKeyringPause)
			log.Warn("the keyring is not as it should be yet", "next", act.String(), "err", err, "retryIn", pause)
		default:
			pause = keyringPause
			if act != 0 {
				log.Info("keyring changed", "did", act.String())
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// step seals the keyring, looks where the key is and makes the next move, if one is due.
func (k keyringKeeper) step(ctx context.Context) (keyringAct, error) {
	unsealed := k.sealKeyring()
	act, err := k.move(ctx)
	return act, errors.Join(unsealed, err)
}

func (k keyringKeeper) move(ctx context.Context) (keyringAct, error) {
	custody, err := identity.ReadCustody(ctx, k.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return nothingToMove, err
	}
	judged, err := k.custody(ctx, localRead)
	if err != nil {
		return nothingToMove, err
	}
	ca, err := identity.ReadCARecord(ctx, k.store, localRead)
	if err != nil {
		return nothingToMove, err
	}
	act := planKeyring(k.view(custody, judged, ca))
	switch act {
	case keepKey:
		return act, k.identity.KeepCAKey(custody.Key)
	case fetchKey:
		return act, k.fetch(ctx, custody.CA)
	case nameRecipient:
		return act, k.nameRecipient(ctx, custody.CA, *custody.Bundle)
	case withdrawKey:
		if err := k.everyVoterHolds(ctx, custody.CA); err != nil {
			return act, err
		}
		return act, identity.WithdrawCAKey(ctx, k.store)
	case dropKey:
		if err := k.everyVoterHolds(ctx, custody.InUse...); err != nil {
			return act, err
		}
		if slices.Contains(k.voters(), k.self) {
			return act, errors.New("this host votes now")
		}
		return act, k.identity.DropCAKey()
	case makeNext:
		return act, k.makeNextCA(ctx)
	case fetchNext:
		return act, k.fetchNextCA(ctx)
	case dropFormer:
		return act, k.dropFormerKeys(ctx)
	}
	return act, nil
}

// view takes where the key is from the state, and whether a bundle has it from what this host
// vouches for.
func (k keyringKeeper) view(custody, judged identity.Custody, ca identity.CARecord) keyringView {
	next, ok := ca.NextCA()
	voter := slices.Contains(k.voters(), k.self)
	lacks := slices.ContainsFunc(ca.Kept(), func(pin identity.Pin) bool { return !k.identity.HoldsCAKey(pin) })
	return keyringView{
		wanted: ca.Stage == identity.CAWanted && !ok, nextHeld: !ok || k.identity.HoldsCAKey(next),
		surplus: slices.ContainsFunc(k.identity.HeldCAs(), func(pin identity.Pin) bool { return !slices.Contains(ca.Kept(), pin) }) ||
			(!voter || !lacks) && k.identity.UnopenedCAKeys(),
		level: k.level(), inState: custody.InState(), bundled: judged.Recoverable(custody.CA), recipient: custody.Bundle == nil || k.namesRecipient(custody),
		voter: voter, leader: k.leads(), held: k.identity.HoldsCAKey(custody.CA),
	}
}

// fetch gets the key from a voter, or from another host that still holds it, such as the
// last voter, which leaves.
func (k keyringKeeper) fetch(ctx context.Context, ca identity.Pin) error {
	key, err := k.client.FetchCAKey(ctx, ca, append(k.voters(), k.live()...))
	if err != nil {
		return err
	}
	return k.identity.KeepCAKey(key)
}

// everyVoterHolds returns an error unless all voters hold the keys of some CAs.
func (k keyringKeeper) everyVoterHolds(ctx context.Context, cas ...identity.Pin) error {
	return k.everyVoterHas(ctx, "the key of the CA", holdsCAKeys(cas))
}

// holdsCAKeys reports of a host whether it holds the keys of some CAs.
func holdsCAKeys(cas []identity.Pin) func(keyring.Holding) bool {
	return func(h keyring.Holding) bool {
		return !slices.ContainsFunc(cas, func(ca identity.Pin) bool { return !h.HoldsCAKey(ca) })
	}
}

// everyVoterHas returns an error unless all voters hold what has asks for. They are asked:
// what they said before may not be true any more.
func (k keyringKeeper) everyVoterHas(ctx context.Context, what string, has func(keyring.Holding) bool) error {
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
		if !has(holding) || !holding.Voter {
			return fmt.Errorf("%s votes and does not hold %s yet", voter, what)
		}
	}
	// While they were asked, others may have got the vote.
	if now := k.voters(); !slices.Equal(now, voters) {
		return fmt.Errorf("%q vote now, and %q were asked for %s", now, voters, what)
	}
	return nil
}

// handOverPatience bounds how long a host that leaves waits for the voters to have the key.
const handOverPatience = 30 * time.Second

// handOver waits until every voter that remains holds the keys that this host holds and the
// replicated state does not. Otherwise they would be gone with the last voter of a mesh that
// has other hosts. It is called when this host votes no more.
func (k keyringKeeper) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handOverPatience)
	defer cancel()
	custody, err := identity.ReadCustody(ctx, k.store, localRead)
	if err != nil {
		return err
	}
	secrets, _, err := identity.ReadSecretKeys(ctx, k.store, localRead)
	if err != nil {
		return err
	}
	// While the CA is replaced, the key of the next one may be nowhere else.
	var cas []identity.Pin
	if !custody.InState() {
		cas = slices.DeleteFunc(slices.Clone(custody.InUse), func(ca identity.Pin) bool { return !k.identity.HoldsCAKey(ca) })
	}
	mine := k.identity.SecretKeyIDs()
	kept := slices.DeleteFunc(secrets.IDs(), func(id string) bool { return !slices.Contains(mine, id) })
	known := k.identity.KnownBundle()
	if k.level() < level.Succession {
		known = nil
	}
	if len(cas) == 0 && len(kept) == 0 && known == nil || len(k.live()) == 0 {
		return nil
	}
	for {
		err := k.everyVoterHas(ctx, "the keys of the mesh", func(h keyring.Holding) bool {
			return holdsCAKeys(cas)(h) && holdsSecretKeys(kept)(h) && knowsNote(known)(h)
		})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("hand over the keys of the mesh: %w", err)
		case <-time.After(keyringPause / 5):
		}
	}
}

// keyringStatus returns what operators are told of the keyring.
func (m *Member) keyringStatus(ctx context.Context) (*admin.KeyringStatus, error) {
	custody, err := m.knownCustody(ctx)
	if errors.Is(err, identity.ErrNotSeeded) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read where the key of the CA is: %w", err)
	}
	secrets, _, err := identity.ReadSecretKeys(ctx, m.store, localRead)
	if err != nil {
		return nil, fmt.Errorf("read the keys for Secrets: %w", err)
	}
	status := &admin.KeyringStatus{Seal: m.keyringSeal(), CAKeyInState: custody.InState(), SecretsEncrypted: secrets.Active != "", SecretKeyWaits: secrets.Pending() != "", BundlesStayGood: m.store.FeatureLevel() >= level.Succession}
	if custody.Bundle != nil {
		status.SecretKeyBundled = status.SecretKeyWaits && custody.RecoversSecretKeys(secrets.IDs())
		used := identity.Holds{CAPins: []string{custody.CA.String()}, SecretKeyIDs: secrets.InUse()}
		status.Bundle = m.describeBundle(*custody.Bundle, custody.Recovers(used))
	}
	return status, nil
}
