package succession

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"virtmesh/agent/identity/manifest"
)

const (
	// silence is for how long a host must not have heard its leader before it asks others for
	// lists. Elections take less.
	silence = 10 * time.Second
	// askPause and maxAskPause are the time between two rounds of asking, askTime bounds the
	// question to one host, and askedAtOnce says how many are asked in a round of those of whom a
	// list or the leader may have told, and as many of the others.
	askPause, maxAskPause = 10 * time.Second, time.Minute
	askTime               = 5 * time.Second
	askedAtOnce           = 5
	// reachPause is how often a host looks whether the leader that it hears answers it.
	reachPause = time.Minute
)

// ErrShorter is why a host is not believed that does not have the list of this one: it lags behind,
// or it is of a mesh that was restored. Refused returns it only if all that is known against the
// hosts that answer is this.
var ErrShorter = errors.New("it does not have the list of voters of this host: it lags behind, or the mesh was restored")

// isCutOff reports whether this host must ask others for lists: it does not hear its leader, or has
// heard for a while what nobody confirms, or one that does not answer. Whoever feeds a follower can
// make it hear a leader.
func (k *Keeper) isCutOff(ctx context.Context) bool {
	k.noteReach(ctx)
	lasts := func(since time.Time) bool { return !since.IsZero() && time.Since(since) >= settling }
	return !k.cfg.Group.HearsLeader() || lasts(k.unconfirmed) || lasts(k.unreached)
}

// noteReach notes since when the leader does not answer this host. While it does, it is asked now
// and then only.
func (k *Keeper) noteReach(ctx context.Context) {
	if k.unreached.IsZero() && time.Since(k.reached) < reachPause {
		return
	}
	switch {
	case k.cfg.Group.IsLeader() || k.cfg.Group.ReachesLeader(ctx):
		k.reached, k.unreached = time.Now(), time.Time{}
	case k.unreached.IsZero():
		k.unreached = time.Now()
	}
}

// askOthers asks other hosts for later lists while this one is cut off.
func (k *Keeper) askOthers(ctx context.Context) {
	if !k.isCutOff(ctx) {
		k.silentSince, k.pause = time.Time{}, 0
		k.setRefused(nil)
		return
	}
	now := time.Now()
	if k.silentSince.IsZero() {
		k.silentSince = now
	}
	heard, fresh := k.news.take()
	first, others := k.sources(heard)
	if known := slices.Concat(first, others); !slices.Equal(known, k.known) {
		k.known, k.pause = known, 0
	}
	if k.cfg.Fetch == nil || !fresh && (now.Sub(k.silentSince) < silence || now.Sub(k.asked) < k.pause) {
		return
	}
	k.asked, k.pause = now, max(askPause, min(2*k.pause, maxAskPause))
	var refused, shorter error
	agreed := false // somebody has this host's list, and no later one
	for _, a := range k.fetch(ctx, append(someOf(first), someOf(others)...)) {
		ahead, err := k.take(ctx, a)
		switch {
		case ahead:
			k.pause = 0 // there may be more
			k.setRefused(nil)
			return
		case errors.Is(err, ErrShorter):
			shorter = errors.Join(shorter, err)
		case err == nil:
			agreed = true
		default:
			refused = errors.Join(refused, err)
		}
	}
	if refused == nil && !agreed {
		refused = shorter
	}
	k.setRefused(refused)
}

// someOf returns up to askedAtOnce of some addresses, by chance.
func someOf(addresses []string) []string {
	some := slices.Clone(addresses)
	rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	return some[:min(len(some), askedAtOnce)]
}

// sources returns the addresses of hosts that may have later lists, each sorted: first those that
// others have told and those of the voters that the newest list names, of whom one probably has
// them, and others, most of which may be gone.
func (k *Keeper) sources(heard []string) (first, others []string) {
	first = slices.Clone(heard)
	for _, voter := range k.Voters() {
		first = append(first, voter.Address)
	}
	slices.Sort(first)
	first = slices.DeleteFunc(slices.Compact(first), func(address string) bool { return address == "" })
	others = slices.Clone(k.cfg.Sources())
	slices.Sort(others)
	others = slices.DeleteFunc(slices.Compact(others), func(address string) bool { return address == "" || slices.Contains(first, address) })
	return first, others
}

// answer is what the host at an address has sent.
type answer struct {
	source string
	data   [][]byte
}

// fetch asks hosts, all at once, for this host's list and those after it, and returns what those
// say that answer.
func (k *Keeper) fetch(ctx context.Context, sources []string) []*answer {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	answers := make([]*answer, len(sources))
	var asking sync.WaitGroup
	for i, source := range sources {
		asking.Go(func() {
			data, err := k.cfg.Fetch(ctx, source, max(k.Version(), 1)-1)
			if err != nil {
				k.cfg.Logger.Debug("a host was asked for the list of voters in vain", "addr", source, "err", err)
				return
			}
			answers[i] = &answer{source, data}
		})
	}
	asking.Wait()
	return slices.DeleteFunc(answers, func(a *answer) bool { return a == nil })
}

// take takes the later lists of another host, if they follow from the list that this one has,
// or from its own copy of the state if it has none. It reports whether there was one. The error
// says why what the other has was not believed.
func (k *Keeper) take(ctx context.Context, a *answer) (ahead bool, err error) {
	kept, source := k.kept.Load(), a.source
	list := make([]*manifest.Signed, 0, len(a.data))
	for _, raw := range a.data {
		s, err := manifest.Parse(raw)
		if err != nil {
			return false, fmt.Errorf("%s: %w", source, err)
		}
		list = append(list, s)
	}
	if len(list) == 0 && kept != nil {
		return false, fmt.Errorf("%s: %w", source, ErrShorter)
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
	if m := list[0]; kept != nil && m.Manifest().Version == k.Version() && m.Hash() != kept.Hash() {
		return false, fmt.Errorf("%s: it follows another version %d: the mesh was restored, or it is not this host's", source, k.Version())
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
