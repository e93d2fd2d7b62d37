package succession

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/raftstore"
)

const (
	// confirmTime bounds the question whether the copy of the state is the group's.
	confirmTime = 5 * time.Second
	// settling is for how long the lists of the state must not have led on from the one that a host
	// has, before it takes what its leader follows. The leader puts foreign lists right sooner.
	settling = time.Minute
)

var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// follow takes the lists in this host's copy of the state that follow from the one that the host
// has. What does not, it takes only as takeConfirmed does.
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
	later, foul, err := readAfter(ctx, k.cfg.Store, kept.Manifest().Version, localRead)
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
	switch {
	case !k.cfg.Group.HearsLeader():
		k.sound, k.brokenSince = false, time.Time{}
		return nil
	case stands && broken == nil && !foul:
		k.sound, k.brokenSince, k.unconfirmed = true, time.Time{}, time.Time{}
		return nil
	case stands && broken == nil && !k.cfg.Group.IsLeader():
		return nil // the leader deletes what is no list
	}
	if k.brokenSince.IsZero() {
		k.brokenSince = time.Now()
	}
	return k.takeConfirmed(ctx)
}

// begin takes the first list, if those have signed it who vote by this host's copy, and those
// that follow it.
func (k *Keeper) begin(ctx context.Context) error {
	later, _, err := readAfter(ctx, k.cfg.Store, 0, localRead)
	if err != nil || len(later) == 0 {
		return err
	}
	known, err := k.ownVoters(ctx)
	if err != nil || !k.isOwnBeginning(later[0], known) {
		return k.takeConfirmed(ctx)
	}
	last, _ := manifest.Forward(later[0], later)
	return k.adopt(last)
}

// isOwnBeginning reports whether a list begins a chain, signed by those who vote by this host's
// copy, and not later than that says itself.
func (k *Keeper) isOwnBeginning(s *manifest.Signed, known []manifest.Voter) bool {
	return s.Begins(known) == nil && s.Manifest().Index <= k.cfg.Group.Electorate().Index
}

// takeConfirmed takes lists of the mesh's state that do not follow from the one that this host has,
// while it hears its leader and once the voters have confirmed the state; see acceptable. If the
// mesh was recovered and its state does not have the list that this host follows, the host has
// none any more.
func (k *Keeper) takeConfirmed(ctx context.Context) error {
	if !k.cfg.Group.HearsLeader() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	all, err := k.confirmed(ctx)
	if err != nil {
		return fmt.Errorf("take the list of voters from the mesh's state: %w", err)
	}
	kept := k.kept.Load()
	if want, err := k.want(ctx); err == nil {
		if s := k.acceptable(all, want); s != nil && (kept == nil || s.Hash() != kept.Hash()) {
			k.setRefused(nil)
			return k.adopt(s)
		}
	}
	if kept == nil {
		return nil
	}
	if kept.Manifest().Group == k.cfg.Group.Electorate().Group {
		if k.cfg.Group.IsLeader() && (k.sound || k.isSettled()) {
			return k.putRight(ctx, kept)
		}
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

// confirmed returns all lists of the mesh's state once it is certainly the group's.
func (k *Keeper) confirmed(ctx context.Context) ([]*manifest.Signed, error) {
	all, err := readAll(ctx, k.cfg.Store, raftstore.ReadOptions{})
	if err == nil {
		err = k.cfg.Group.Confirm(ctx)
	}
	switch {
	case err == nil:
		k.unconfirmed = time.Time{}
	case k.unconfirmed.IsZero():
		k.unconfirmed = time.Now()
	}
	return all, err
}

// isSettled reports whether the state's lists have not led on from this host's for so long that
// the leader has put right what it can.
func (k *Keeper) isSettled() bool {
	return !k.brokenSince.IsZero() && time.Since(k.brokenSince) >= settling
}

// acceptable returns the newest list of a confirmed state that a host may take although it does
// not follow from its own; nil: none. Any host can write lists, and a bad one lasts until the
// leader puts it right, so a list is taken
//   - if it begins anew, and those have signed it who vote by this host's own copy, with what
//     follows it;
//   - if it says what this host's copy and its Raft configuration say too, and follows the list
//     before it. Such a one tells the host nothing new about who votes.
//
// A host with a list of this group takes at once only a later beginning, and anything else if
// nothing has led on for settling.
func (k *Keeper) acceptable(all []*manifest.Signed, want manifest.Manifest) *manifest.Signed {
	kept := k.kept.Load()
	bound := kept != nil && kept.Manifest().Group == want.Group
	loose := !bound || k.isSettled() && !(k.sound && k.cfg.Group.IsLeader())
	for i, s := range slices.Backward(all) {
		m := s.Manifest()
		if (loose || m.Version > kept.Manifest().Version) && k.isOwnBeginning(s, want.Voters) {
			last, _ := manifest.Forward(s, all[i:])
			return last
		}
		follows := i == 0 && m.Version > 1 || i > 0 && s.Follows(all[i-1]) == nil
		if loose && follows && m.Agrees(want) && m.Index <= want.Index {
			return s
		}
	}
	return nil
}

// putRight makes the mesh's state lead on from the list that this host, which leads, has verified:
// it writes the list where it was, and deletes what does not follow it.
func (k *Keeper) putRight(ctx context.Context, s *manifest.Signed) error {
	data, err := s.Encode()
	if err != nil {
		return err
	}
	own := Key(s.Manifest().Version)
	records, err := recordsAfter(ctx, k.cfg.Store, s.Manifest().Version, localRead)
	if err != nil {
		return err
	}
	var unchanged []raftstore.Condition
	var ops []raftstore.Op
	if stands, err := k.stands(ctx, s, localRead); err != nil {
		return err
	} else if !stands {
		revision, err := revisionOf(ctx, k.cfg.Store, own)
		if err != nil {
			return err
		}
		unchanged = append(unchanged, raftstore.Condition{Key: own, ModRevision: revision})
		ops = append(ops, raftstore.Op{Key: own, Value: data})
	}
	for _, rec := range records {
		unchanged = append(unchanged, raftstore.Condition{Key: rec.Key, ModRevision: rec.ModRevision})
		ops = append(ops, raftstore.Op{Key: rec.Key, Delete: true})
	}
	if len(ops) == 0 {
		return nil
	}
	k.cfg.Logger.Warn("a host has written lists of voters that do not follow from the mesh's: they are put right", "version", s.Manifest().Version)
	return k.commit(ctx, unchanged, ops...)
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
	return err == nil && stored.Hash() == s.Hash(), nil
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
