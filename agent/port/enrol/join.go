package enrol

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port"
	"virtmesh/raftstore"
	"virtmesh/storage/durable"
)

// Options say which mesh a host joins and as what.
type Options struct {
	// Dir is the state directory; it must hold no identity.
	Dir string
	// Addresses are mesh addresses of members, tried in order.
	Addresses []string
	// Token admits the host.
	Token identity.Token
	// Host is the name that the host asks for.
	Host string
	// MeshAddress and GossipAddress are what other hosts dial, "host:port".
	MeshAddress, GossipAddress string
	// SANs are more names and addresses by which API clients know the host.
	SANs []string
	// Version is that of this software, and Levels the feature levels that it knows.
	Version string
	Levels  raftstore.LevelRange
	// GuestNetwork, if set, gets the range of the addresses of the mesh's guests ("" if the
	// mesh keeps none) before the token is sent, and returns the range that this host will
	// use, or a fault if guests cannot have that one here.
	GuestNetwork func(mesh string) (own string, err error)
	// Attempt bounds the exchange with one member, Rounds how often all are tried, and
	// Pause is the wait between two rounds.
	Attempt time.Duration
	Rounds  int
	Pause   time.Duration
	// MaxSkew is only used to tell a wrong clock on this host from an expired
	// certificate of the server.
	MaxSkew time.Duration
	// Now is the clock of this host; nil stands for time.Now.
	Now func() time.Time
	// Logger receives the errors of members while others are still tried.
	Logger *slog.Logger
}

// DefaultOptions returns Options without the names, the token and the addresses.
func DefaultOptions() Options {
	return Options{
		Attempt: 30 * time.Second, Rounds: 3, Pause: 2 * time.Second, MaxSkew: DefaultMaxSkew,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// Validate says what is missing or malformed.
func (o Options) Validate() error {
	rec := identity.HostRecord{Name: o.Host, MeshAddress: o.MeshAddress, GossipAddress: o.GossipAddress, SANs: o.SANs}
	if err := rec.Validate(); err != nil {
		return err
	}
	switch {
	case o.Dir == "":
		return errors.New("the state directory is missing")
	case len(o.Addresses) == 0:
		return errors.New("the address of a member is missing")
	case !identity.ValidTokenID(o.Token.ID):
		return errors.New("the token is missing")
	case o.Attempt <= 0 || o.Rounds < 1 || o.Pause < 0 || o.MaxSkew <= 0:
		return errors.New("Attempt, Rounds and MaxSkew must be positive")
	case o.Logger == nil:
		return errors.New("Logger is nil")
	}
	for _, addr := range o.Addresses {
		if err := identity.ValidateAddress(addr); err != nil {
			return err
		}
	}
	return nil
}

// Join makes this host a member of the mesh that the token is for and writes its
// identity to the state directory, where identity.Open reads it. If Join returns an
// error, the directory holds no identity, and calling Join again with the same token is
// safe: the mesh recognises the host by the key that the directory keeps for it.
//
// A caller can distinguish these errors: identity.ErrInitialised; faults with the codes
// TokenInvalid, TokenExpired, TokenUsed, HostTaken, ClockSkew, TooOld, TooNew and
// Invalid, which names the field; this package's *PinError, ErrServerCertificate and
// ErrUnavailable.
func Join(ctx context.Context, opts Options) error {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if err := opts.Validate(); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if done, err := identity.Initialised(opts.Dir); err != nil || done {
		if done {
			err = fmt.Errorf("%s: %w", opts.Dir, identity.ErrInitialised)
		}
		return fmt.Errorf("join: %w", err)
	}
	pending := pendingKey{path: filepath.Join(opts.Dir, ".join-"+opts.Token.ID+".key")}
	_, known := os.Stat(pending.path)
	key, err := pending.loadOrCreate()
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	answer, err := askMembers(ctx, opts, key)
	if err != nil {
		var unreached *unreachedError
		if tokenGone(err) || known != nil && errors.As(err, &unreached) {
			err = errors.Join(err, pending.remove())
		}
		return fmt.Errorf("join: %w", err)
	}
	if err := saveIdentity(opts, key, answer); err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if err := pending.remove(); err != nil {
		opts.Logger.Warn("the key of the join could not be removed; it is no longer needed", "err", err)
	}
	return nil
}

// askMembers asks the members in turn until one admits or finally refuses this host.
func askMembers(ctx context.Context, opts Options, key *ecdsa.PrivateKey) (Answer, error) {
	var last error
	for round := range opts.Rounds {
		if round > 0 {
			select {
			case <-ctx.Done():
				return Answer{}, fmt.Errorf("%w: %w", ErrUnavailable, last)
			case <-time.After(opts.Pause):
			}
		}
		for _, addr := range opts.Addresses {
			answer, err := askMember(ctx, opts, addr, key)
			if err == nil {
				return answer, nil
			}
			if isFinal(err) || ctx.Err() != nil {
				return Answer{}, err
			}
			opts.Logger.Warn("member did not admit this host, trying the next one", "addr", addr, "err", err)
			last = err
		}
	}
	if errors.Is(last, ErrUnavailable) {
		return Answer{}, last
	}
	return Answer{}, fmt.Errorf("%w: %w", ErrUnavailable, last)
}

// askMember makes one attempt to join with one member.
func askMember(ctx context.Context, opts Options, addr string, key *ecdsa.PrivateKey) (Answer, error) {
	csr, err := identity.NewCSR(key, opts.Host)
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, opts.Attempt)
	defer cancel()
	server := &pinned{addr: addr, pin: opts.Token.Pin}
	c := newCaller(addr, port.NewSpeaker(opts.Host, opts.Version), server.verify)
	defer c.close()
	terms, err := compareClocks(ctx, opts, c, server)
	if err != nil {
		return Answer{}, err
	}
	var guests string
	if opts.GuestNetwork != nil {
		if guests, err = opts.GuestNetwork(terms.GuestNetwork); err != nil {
			return Answer{}, err
		}
	}
	var answer Answer
	err = c.call(ctx, http.MethodPost, pathJoin, Request{
		TokenID: opts.Token.ID, Secret: opts.Token.Secret[:], CSR: csr,
		Host: opts.Host, MeshAddress: opts.MeshAddress, GossipAddress: opts.GossipAddress, SANs: opts.SANs,
		Clock: opts.Now().UTC(), Version: opts.Version, LowestFeatureLevel: opts.Levels.Lowest, FeatureLevel: opts.Levels.Highest,
		GuestNetwork: guests,
	}, &answer)
	return answer, err
}

// compareClocks reads the server's clock before the token is sent. Otherwise a host
// with a wrong clock would report that the server's certificate has expired, which
// would mislead its operator. It returns what else the server says of its mesh.
func compareClocks(ctx context.Context, opts Options, c *caller, server *pinned) (clockAnswer, error) {
	var there clockAnswer
	if err := c.call(ctx, http.MethodGet, pathClock, nil, &there); err != nil {
		return there, err
	}
	here := opts.Now()
	if here.Sub(there.Clock).Abs() > opts.MaxSkew {
		return there, clockSkewFault(here, there.Clock, opts.MaxSkew)
	}
	if leaf := server.leaf; here.After(leaf.NotAfter) || here.Before(leaf.NotBefore) {
		return there, fmt.Errorf("ask %s: %w at %s", c.addr, ErrServerCertificate, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	return there, nil
}

// pinned verifies a server by the pin of its CA. compareClocks checks the validity
// period.
type pinned struct {
	addr string
	pin  identity.Pin
	leaf *x509.Certificate
}

func (p *pinned) verify(chain []*x509.Certificate) error {
	i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return c.IsCA && identity.PinOf(c) == p.pin })
	if i < 1 { // the certificate at 0 is the server's own
		return &PinError{Addr: p.addr, Want: p.pin}
	}
	roots := x509.NewCertPool()
	roots.AddCert(chain[i])
	if _, err := identity.VerifyNode(chain, roots, chain[0].NotBefore, x509.ExtKeyUsageServerAuth); err != nil {
		return fmt.Errorf("%w: %w", &PinError{Addr: p.addr, Want: p.pin}, err)
	}
	p.leaf = chain[0]
	return nil
}

// saveIdentity checks that the answer comes from the pinned CA and writes it in one
// step.
func saveIdentity(opts Options, key *ecdsa.PrivateKey, a Answer) error {
	bundle, err := identity.ParseCertificates(a.CABundle)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if !slices.ContainsFunc(bundle, func(c *x509.Certificate) bool { return identity.PinOf(c) == opts.Token.Pin }) {
		return errors.New("answer: it lacks the CA that the token pins")
	}
	chain, err := identity.ParseCertificates(a.Chain)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	node, err := identity.NodeOf(chain[0])
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	keyPEM, err := identity.EncodeKey(key)
	if err != nil {
		return err
	}
	return identity.CreateState(opts.Dir, identity.State{
		Info: identity.Info{
			MeshID: a.MeshID, Host: opts.Host, HostID: node.ID, MeshAddress: opts.MeshAddress, GossipAddress: opts.GossipAddress,
			SANs: opts.SANs, Seeds: a.Members, Joined: opts.Now().UTC(),
		},
		Chain: a.Chain, Key: keyPEM, CABundle: a.CABundle, CAKey: a.CAKey, GossipKeys: a.GossipKeys,
	})
}

// tokenGone reports whether the token, and therefore the key kept for it, can no longer
// be used.
func tokenGone(err error) bool {
	return errors.Is(err, fault.TokenInvalid) || errors.Is(err, fault.TokenExpired) ||
		errors.Is(err, fault.TokenUsed)
}

// pendingKey is the private key of a join that has not succeeded yet.
type pendingKey struct{ path string }

// loadOrCreate reads the key, or makes a new one and stores it.
func (p pendingKey) loadOrCreate() (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(p.path)
	if err == nil {
		return identity.ParseKey(data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read key of the join: %w", err)
	}
	key, err := identity.NewKey()
	if err != nil {
		return nil, err
	}
	if data, err = identity.EncodeKey(key); err != nil {
		return nil, err
	}
	if err := identity.MakeStateDir(filepath.Dir(p.path)); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(p.path, data, 0o600); err != nil {
		return nil, fmt.Errorf("store key of the join: %w", err)
	}
	return key, nil
}

func (p pendingKey) remove() error {
	if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove key of the join: %w", err)
	}
	return nil
}
