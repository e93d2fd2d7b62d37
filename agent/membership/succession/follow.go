package succession

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/raftstore"
)

const (
	// confirmTime bounds the question whether the copy of the state is the group's.
	confirmTime = 5 * time.Second
	// silence is for how long a host must not have heard its leader before it asks others for
	// lists. Elections take less.
	silence = 10 * time.Second
	// askPause and maxAskPause are the time between two rounds of asking, askTime bounds the
	// question to one host, and askedAtOnce says how many are asked in a round.
	askPause, maxAskPause = 10 * time.Second, time.Minute
	askTime               = 5 * time.Second
	askedAtOnce           = 5
)

var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// follow takes the lists in this host's copy of the state. What does not follow from the list
// that the host has, it takes only as takeConfirmed does.
func (k *Keeper) follow(ctx context.Context) error {
	kept := k.kept.Load()
	if kept == nil {
		return k.begin(ctx)
	}
	if err := k.believe(kept); err != nil {
		return err
	}
	stands, err := k.stands(ctx, kept, localRead)
	if err != nil {
		return err
	}
	later, err := readAfter(ctx, k.cfg.Store, kept.Manifest().Version, localRead)
	if err != nil {
		return err
	}
	// A later list need not be in the copy of a host that comes back, which lags behind.
	last, broken := manifest.Forward(kept, later)
	if last != kept {
		stands = true
		if err := k.adopt(last); err != nil {
			return err
		}
	}
	if stands && broken == nil {
		return nil
	}
	return k.takeConfirmed(ctx)
}

// begin takes the first list, if those have signed it who vote by this host's copy, and those
// that follow it.
func (k *Keeper) begin(ctx context.Context) error {
	later, err := readAfter(ctx, k.cfg.Store, 0, localRead)
	if err != nil || len(later) == 0 {
		return err
	}
	known, err := k.ownVoters(ctx)
	if err != nil || later[0].Begins(known) != nil {
		return k.takeConfirmed(ctx)
	}
	last, _ := manifest.Forward(later[0], later)
	return k.adopt(last)
}

// takeConfirmed takes the newest list of the mesh's state, whatever this host has, if it says
// what this host's copy and its Raft configuration say too, while this host hears its leader and
// once the voters have confirmed the state. So a list that a host has written on its own is worth
// nothing. If the state does not have the list that this host follows, the mesh was restored from
// before it, and the host has none any more.
func (k *Keeper) takeConfirmed(ctx context.Context) error {
	if !k.cfg.Group.HearsLeader() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	newest, err := readNewest(ctx, k.cfg.Store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if err := k.cfg.Group.Confirm(ctx); err != nil {
		return fmt.Errorf("take the list of voters from the mesh's state: %w", err)
	}
	if want, err := k.want(ctx); err == nil && newest != nil && newest.Manifest().Agrees(want) {
		k.setRefused(nil)
		return k.adopt(newest)
	}
	kept := k.kept.Load()
	if kept == nil {
		return nil
	}
	stands, err := k.stands(ctx, kept, localRead)
	if err != nil || stands {
		return err
	}
	k.cfg.Logger.Warn("the mesh's state does not have the list of voters that this host followed: it was restored", "version", k.Version())
	k.kept.Store(nil)
	return k.cfg.Book.KeepManifest(nil)
}

// stands reports whether the state holds a list as it is.
func (k *Keeper) stands(ctx context.Context, s *manifest.Signed, opts raftstore.ReadOptions) (bool, error) {
	rec, _, err := k.cfg.Store.Get(ctx, Key(s.Manifest().Version), opts)
	if errors.Is(err, raftstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the list of voters: %w", err)
	}
	stored, err := manifest.Parse(rec.Value)
	return err == nil && stored.Hash() == s.Hash(), err
}

// ask asks other hosts for later lists while this one does not hear its leader.
func (k *Keeper) ask(ctx context.Context) error {
	if k.cfg.Group.HearsLeader() {
		k.silentSince, k.pause = time.Time{}, 0
		k.setRefused(nil)
		return nil
	}
	now := time.Now()
	if k.silentSince.IsZero() {
		k.silentSince = now
	}
	heard, fresh := k.news.take()
	sources := k.sources(heard)
	if !slices.Equal(sources, k.known) {
		k.known, k.pause = sources, 0
	}
	if k.cfg.Fetch == nil || !fresh && (now.Sub(k.silentSince) < silence || now.Sub(k.asked) < k.pause) {
		return nil
	}
	k.asked, k.pause = now, max(askPause, min(2*k.pause, maxAskPause))
	sources = slices.Clone(sources)
	rand.Shuffle(len(sources), func(i, j int) { sources[i], sources[j] = sources[j], sources[i] })
	var refused error
	for _, source := range sources[:min(len(sources), askedAtOnce)] {
		ahead, err := k.fetch(ctx, source)
		if ahead {
			k.pause = 0 // there may be more
			k.setRefused(nil)
			return nil
		}
		refused = errors.Join(refused, err)
	}
	k.setRefused(refused)
	return nil
}

// sources returns the addresses of hosts that may have later lists, sorted.
func (k *Keeper) sources(heard []string) []string {
	sources := slices.Concat(heard, k.cfg.Sources())
	for _, voter := range k.Voters() {
		sources = append(sources, voter.Address)
	}
	slices.Sort(sources)
	return slices.DeleteFunc(slices.Compact(sources), func(address string) bool { return address == "" })
}

// fetch takes the later lists of another host, if they follow from the list that this one has,
// or from its own copy of the state if it has none. It reports whether there was one. The error
// says why what the other has was not believed.
func (k *Keeper) fetch(ctx context.Context, source string) (ahead bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	kept := k.kept.Load()
	data, err := k.cfg.Fetch(ctx, source, k.Version())
	if err != nil {
		k.cfg.Logger.Debug("a host was asked for the list of voters in vain", "addr", source, "err", err)
		return false, nil
	}
	list := make([]*manifest.Signed, 0, len(data))
	for _, raw := range data {
		s, err := manifest.Parse(raw)
		if err != nil {
			return false, fmt.Errorf("%s: %w", source, err)
		}
		list = append(list, s)
	}
	if len(list) == 0 {
		return false, nil
	}
	first := kept
	if first == nil {
		known, err := k.ownVoters(ctx)
		if err != nil {
			return false, err
		}
		if err := list[0].Begins(known); err != nil {
			return false, fmt.Errorf("%s: %w", source, err)
		}
		first = list[0]
	}
	last, err := manifest.Forward(first, list)
	if err != nil {
		err = fmt.Errorf("%s: %w", source, err)
	}
	if last == kept {
		return false, err
	}
	return true, errors.Join(k.adopt(last), k.trustCAs(last))
}

// ownVoters returns who votes by this host's copy of the state, with their IDs and keys.
func (k *Keeper) ownVoters(ctx context.Context) ([]manifest.Voter, error) {
	var voters []manifest.Voter
	hosts := identity.NewHosts(k.cfg.Store)
	for _, name := range k.cfg.Group.Electorate().Voters {
		rec, err := hosts.Get(ctx, name, localRead)
		if err != nil {
			return nil, fmt.Errorf("list the voters: %w", err)
		}
		if !rec.KeyKept {
			return nil, fmt.Errorf("list the voters: the record of %s does not name its key yet", name)
		}
		voters = append(voters, manifest.Voter{Name: name, ID: rec.ID, KeyPin: rec.KeyPin, Address: rec.MeshAddress})
	}
	return voters, nil
}
