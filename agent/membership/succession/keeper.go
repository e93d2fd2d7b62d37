package succession

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// Group is what a Keeper asks of the replicated store's group; *raftstore.Store implements it.
// Only Confirm and ReachesLeader may block.
type Group interface {
	// FeatureLevel returns the feature level of this host's copy of the state.
	FeatureLevel() uint32
	// IsLeader reports whether this host leads, and HearsLeader whether the leader's entries
	// reach it.
	IsLeader() bool
	HearsLeader() bool
	// ReachesLeader reports whether the leader that this host hears answers it, too.
	ReachesLeader(ctx context.Context) bool
	// Electorate returns who votes by this host's copy.
	Electorate() raftstore.Electorate
	// BelieveVoters makes the replica believe what a majority of these voters signs.
	BelieveVoters(raftstore.Electorate) error
	// Confirm returns once the copy is certainly the group's.
	Confirm(ctx context.Context) error
}

// Book keeps what a host has verified; *identity.Identity is one.
type Book interface {
	// Manifest returns what KeepManifest has kept, nothing if it has kept nothing.
	Manifest() ([]byte, error)
	// KeepManifest keeps the newest list; nil: there is none any more.
	KeepManifest(data []byte) error
	// Trust returns the CAs that the host trusts, and the version of this trust; KeepTrust
	// replaces them.
	Trust() (bundle []byte, generation uint64)
	KeepTrust(bundle []byte, generation uint64) (changed bool, err error)
}

var _ Book = (*identity.Identity)(nil)

// Config is what a Keeper needs.
type Config struct {
	// Self is this host, and KeyPin the pin of its key.
	Self   identity.Node
	KeyPin func() identity.Pin
	MeshID string
	Store  identity.Store
	Group  Group
	Book   Book
	// Sign signs as this host, see identity.SignFor.
	Sign func(identity.Purpose, []byte) (key, sum []byte, err error)
	// Sources returns the addresses of hosts that may have later lists; Fetch asks one of them
	// for the lists after a version, in order. What it returns need not be trusted.
	Sources func() []string
	Fetch   func(ctx context.Context, address string, after uint64) ([][]byte, error)
	// Unheard returns the addresses of the hosts of the mesh that are not heard; Tell tells the one
	// at an address that this host has lists. Nil: nobody is told.
	Unheard func() []string
	Tell    func(ctx context.Context, address string) error
	// Trusting is called after the host has begun to trust other CAs. It must not block.
	Trusting func()
	Logger   *slog.Logger
}

// Keeper keeps the list of voters on one host. Its methods may be called concurrently.
type Keeper struct {
	cfg  Config
	kept atomic.Pointer[manifest.Signed]

	stepping sync.Mutex
	// Only Step uses these, and holds stepping.
	silentSince time.Time // zero: the leader is heard
	asked       time.Time // the last round of asking others
	pause       time.Duration
	known       []string  // who could be asked in the last step
	told        time.Time // when hosts that are not heard were told last, and whose turn is next
	turn        int
	// reached is when the leader that this host hears answered it last, and unreached since when it
	// does not; zero: it does.
	reached, unreached time.Time
	// sound: this host has seen that the state's lists lead to its own and no further, and has heard
	// the leader since. brokenSince is since when they do not, and unconfirmed since when the state
	// was not confirmed when that was needed; zero: it is not so.
	sound                    bool
	brokenSince, unconfirmed time.Time
	// due is since when the list dueAfter ought to have a next one, and leads since when this host
	// leads; zero: it is not so.
	due, leads time.Time
	dueAfter   string

	news    news
	waiting atomic.Bool // a list waits for signatures

	mu sync.Mutex
	// refused is why what others have sent was not believed, nil if it was.
	refused error
	// spoilt is why the list that the host has kept cannot be read; nil once it has one again.
	spoilt error
}

// New returns the Keeper of a host, with the list that the host has kept.
func New(cfg Config) (*Keeper, error) {
	k := &Keeper{cfg: cfg}
	data, err := cfg.Book.Manifest()
	if err != nil {
		k.spoilt = err
		return k, err
	}
	if len(data) == 0 {
		return k, nil
	}
	kept, err := manifest.Parse(data)
	if err != nil {
		k.spoilt = fmt.Errorf("the list of voters that this host has kept: %w", err)
		return k, k.spoilt
	}
	k.kept.Store(kept)
	return k, nil
}

// Verdict is what a list says of a machine.
type Verdict int

// The verdicts.
const (
	// Unnamed: the list does not name its host's name.
	Unnamed Verdict = iota
	// Votes: it is a voter.
	Votes
	// Impostor: another machine has that name and votes.
	Impostor
)

// Judge says what the newest list that this host has verified says of a machine. newer reports
// whether the list is newer than the host's copy of the state; if it is not, the copy knows
// better.
func (k *Keeper) Judge(node identity.Node, key identity.Pin) (v Verdict, newer bool) {
	kept := k.kept.Load()
	if kept == nil {
		return Unnamed, false
	}
	newer = k.isAhead(kept)
	voter, ok := kept.Names(node.Name)
	switch {
	case !ok:
		return Unnamed, newer
	case voter.Is(node, key):
		return Votes, newer
	}
	return Impostor, newer
}

// Voters returns the voters of the newest list that this host has verified, if that list is
// newer than the host's copy of the state.
func (k *Keeper) Voters() []manifest.Voter {
	kept := k.kept.Load()
	if kept == nil || !k.isAhead(kept) {
		return nil
	}
	return kept.Manifest().Voters
}

// Names reports whether the newest list that this host has verified names a host.
func (k *Keeper) Names(host string) bool {
	kept := k.kept.Load()
	if kept == nil {
		return false
	}
	_, ok := kept.Names(host)
	return ok
}

// isAhead reports whether a list is newer than this host's copy of the state. One of a group that
// was replaced says nothing about the copy.
func (k *Keeper) isAhead(s *manifest.Signed) bool {
	m, own := s.Manifest(), k.cfg.Group.Electorate()
	return len(own.Voters) == 0 || m.Group == own.Group && m.Index > own.Index
}

// Version returns the version of the newest list that this host has verified, zero if it has
// none.
func (k *Keeper) Version() uint64 {
	if kept := k.kept.Load(); kept != nil {
		return kept.Manifest().Version
	}
	return 0
}

// Refused returns why this host does not believe the lists that others have, nil if it does or
// has not asked: it does not hear its leader, and somebody must help it.
func (k *Keeper) Refused() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.refused
}

// Spoilt returns why this host does not know any more which voters it has followed: what it has kept
// of them cannot be read, and it has not learned it anew. It is nil otherwise.
func (k *Keeper) Spoilt() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.spoilt
}

// Waiting reports whether a list waits for signatures, so that the next step is due soon.
func (k *Keeper) Waiting() bool { return k.waiting.Load() }

func (k *Keeper) setRefused(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refused = err
}

// InUse reports whether the mesh has lists of its voters. The copy of a host that lost power may
// be older than the list that it has kept, and the level of a mesh never goes down.
func (k *Keeper) InUse() bool {
	return k.kept.Load() != nil || k.cfg.Group.FeatureLevel() >= level.Succession
}

// Step looks what is to be done now, and does it. Its error says what to try again.
func (k *Keeper) Step(ctx context.Context) error {
	k.stepping.Lock()
	defer k.stepping.Unlock()
	if !k.InUse() {
		return nil
	}
	err := k.follow(ctx)
	k.askOthers(ctx)
	if err != nil {
		return err
	}
	k.tellUnheard(ctx)
	return k.advance(ctx)
}

// adopt makes a verified list that of this host: on disk first, so that it outlives a crash.
func (k *Keeper) adopt(s *manifest.Signed) error {
	m := s.Manifest()
	if m.MeshID != k.cfg.MeshID {
		return errors.New("the list of voters is of another mesh")
	}
	data, err := s.Encode()
	if err != nil {
		return err
	}
	if err := k.cfg.Book.KeepManifest(data); err != nil {
		return err
	}
	before := k.kept.Swap(s)
	k.mu.Lock()
	k.spoilt = nil
	k.mu.Unlock()
	if before == nil || before.Hash() != s.Hash() {
		k.cfg.Logger.Info("the list of the mesh's voters has changed", "version", m.Version, "voters", m.VoterNames(), "anew", m.Anew)
	}
	return k.believe(s)
}

// believe makes the replica believe the voters of a list.
func (k *Keeper) believe(s *manifest.Signed) error {
	m := s.Manifest()
	return k.cfg.Group.BelieveVoters(raftstore.Electorate{Group: m.Group, Index: m.Index, Voters: m.VoterNames()})
}

// trustCAs makes this host's connections trust the CAs of a list that its copy of the state does
// not have. What is in the copy says itself which CAs are trusted.
func (k *Keeper) trustCAs(s *manifest.Signed) error {
	m := s.Manifest()
	if _, generation := k.cfg.Book.Trust(); m.TrustGeneration <= generation {
		return nil
	}
	changed, err := k.cfg.Book.KeepTrust(m.CAs, m.TrustGeneration)
	if changed && k.cfg.Trusting != nil {
		k.cfg.Trusting()
	}
	return err
}
