package succession

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/manifest"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// patience is how long the leader, and each voter by itself, waits for the signatures of a majority
// of the voters before, before the list begins anew. They may have been replaced faster than they
// could sign.
const patience = 10 * time.Minute

// act is what a host does next about the next list.
type act int

const (
	// wait: nothing, or nothing of this host.
	wait act = iota
	// propose: the leader writes the next list, signed if it may.
	propose
	// sign: a voter adds its signature.
	sign
	// publish: the leader publishes the next list.
	publish
	// discard: the leader deletes what waits for signatures in vain.
	discard
)

// view is what a host knows when it decides about the next list.
type view struct {
	leader bool
	self   identity.Node
	pin    identity.Pin
	// base is the list that the next one takes the place after, and next the one that waits for
	// signatures; nil if there is none. verified reports whether this host follows base; if not, it
	// only stands in the state.
	base, next *manifest.Signed
	verified   bool
	// want is what the next list should say now, by this host's copy of the state and its Raft
	// configuration.
	want manifest.Manifest
	// late reports whether the next list has been due for too long.
	late bool
}

// decide decides what a host does next. It is pure. Any host can write what waits for signatures:
// what is signed is nothing but what the signer would propose itself.
func decide(v view) act {
	due := !v.verified || !v.base.Manifest().Agrees(v.want)
	fits := v.next != nil && follows(v.next.Manifest(), v.base)
	switch {
	case fits && v.leader && v.next.IsSignedBy(electors(v.next.Manifest(), v.base)) == nil && (mustBeginAnew(v) || !v.next.Manifest().Anew):
		return publish // also if more has changed since: a majority has signed it
	case v.leader && v.next != nil && !due:
		return discard
	case !due || hasForeignKey(v):
		return wait
	case v.leader && !(fits && v.next.Is(proposal(v, v.next.Manifest().Made))):
		return propose
	case fits && isOwnWord(v) && maySign(v, v.next):
		return sign
	}
	return wait
}

// proposal returns the list that this host would propose at a time.
func proposal(v view, made time.Time) manifest.Manifest {
	m := v.want
	m.Version, m.Made, m.Anew = 1, made, mustBeginAnew(v)
	if v.base != nil {
		m.Version, m.Previous = v.base.Manifest().Version+1, v.base.Hash()
	}
	return m
}

// isOwnWord reports whether the list that waits for signatures says what this host says itself, and
// nothing else. It may be patient for longer than this host.
func isOwnWord(v view) bool {
	own := proposal(v, v.next.Manifest().Made)
	if !v.next.Manifest().Anew {
		own.Anew = false
	}
	return v.next.Is(own)
}

// hasForeignKey reports whether the records name another key than this host's own for it, or than
// the list before for a voter. A host keeps its key for as long as it is a member, so another
// host has written that.
func hasForeignKey(v view) bool {
	return slices.ContainsFunc(v.want.Voters, func(voter manifest.Voter) bool {
		if voter.Name == v.self.Name && !voter.Is(v.self, v.pin) {
			return true
		}
		return v.base != nil && slices.ContainsFunc(v.base.Manifest().Voters, func(b manifest.Voter) bool { return b.ID == voter.ID && b.KeyPin != voter.KeyPin })
	})
}

// follows reports whether a list takes the place after another one.
func follows(m manifest.Manifest, base *manifest.Signed) bool {
	if base == nil {
		return m.Version == 1
	}
	return m.Version == base.Manifest().Version+1 && m.Previous == base.Hash()
}

// electors returns whose majority must sign a list.
func electors(m manifest.Manifest, base *manifest.Signed) []manifest.Voter {
	if m.Anew || base == nil {
		return m.Voters
	}
	return base.Manifest().Voters
}

// mustBeginAnew reports whether no majority of the voters before can be expected to sign: the
// mesh was recovered, or they do not answer.
func mustBeginAnew(v view) bool {
	return !v.verified || v.base.Manifest().Group != v.want.Group || v.late
}

// maySign reports whether this host is one of those who must sign a list, and has not, and others
// have not either in sufficient number.
func maySign(v view, next *manifest.Signed) bool {
	isSelf := func(voter manifest.Voter) bool { return voter.Is(v.self, v.pin) }
	must := electors(next.Manifest(), v.base)
	return slices.ContainsFunc(must, isSelf) && !slices.ContainsFunc(next.SignedBy(must), isSelf) && next.IsSignedBy(must) != nil
}

// advance takes part in making the next list.
func (k *Keeper) advance(ctx context.Context) error {
	next, stored, err := readNext(ctx, k.cfg.Store)
	leads := k.cfg.Group.IsLeader() && k.cfg.Group.FeatureLevel() >= level.Succession
	k.noteLead(leads)
	k.waiting.Store(next != nil)
	if err != nil {
		return err
	}
	v, err := k.view(ctx, leads, next)
	if !leads && next == nil {
		return nil // it was noted since when a list is due
	}
	if errors.Is(err, errOtherTrust) {
		return nil
	}
	if err != nil {
		return err
	}
	todo := decide(v)
	if todo == wait {
		return nil
	}
	// What a host was fed may be made up. A voter that has it from its leader knows at once.
	sure, cancel := context.WithTimeout(ctx, confirmTime)
	defer cancel()
	if err := k.cfg.Group.Confirm(sure); err != nil {
		return fmt.Errorf("sign the list of voters: %w", err)
	}
	return k.carryOut(ctx, todo, v, stored)
}

// carryOut does what was decided.
func (k *Keeper) carryOut(ctx context.Context, todo act, v view, stored raftstore.Record) error {
	switch todo {
	case propose:
		return k.propose(ctx, v, stored)
	case sign:
		signed, err := v.next.Sign(k.cfg.Sign)
		if err != nil {
			return err
		}
		return k.write(ctx, v.base, signed, stored)
	case publish:
		return k.write(ctx, v.base, v.next, stored)
	case discard:
		return k.commit(ctx, []raftstore.Condition{{Key: NextKey, ModRevision: stored.ModRevision}}, raftstore.Op{Key: NextKey, Delete: true})
	}
	return nil
}

// errOtherTrust is the error of a host that trusts other CAs than the state names. It follows the
// state soon, or somebody has written CAs there that no CA of the mesh has vouched for, as any host
// can: then a list must not carry them to hosts that believe the list.
var errOtherTrust = errors.New("this host trusts other CAs than the mesh's state names")

// noteLead notes since when this host leads.
func (k *Keeper) noteLead(leads bool) {
	switch {
	case !leads:
		k.leads = time.Time{}
	case k.leads.IsZero():
		k.leads = time.Now()
	}
}

// want returns what the newest list should say, by this host's copy of the state and its Raft
// configuration.
func (k *Keeper) want(ctx context.Context) (manifest.Manifest, error) {
	voters, err := k.ownVoters(ctx)
	if err != nil {
		return manifest.Manifest{}, err
	}
	if len(voters) == 0 {
		return manifest.Manifest{}, errors.New("list the voters: this host knows none")
	}
	cas, generation, err := identity.TrustedCAs(ctx, k.cfg.Store, localRead)
	if err != nil {
		return manifest.Manifest{}, err
	}
	e := k.cfg.Group.Electorate()
	return manifest.Manifest{MeshID: k.cfg.MeshID, Group: e.Group, Voters: voters, Index: e.Index, CAs: cas, TrustGeneration: generation}, nil
}

func (k *Keeper) view(ctx context.Context, leads bool, next *manifest.Signed) (v view, err error) {
	v = view{leader: leads, self: k.cfg.Self, pin: k.cfg.KeyPin(), next: next}
	if v.want, err = k.want(ctx); err != nil {
		return v, err
	}
	if trusted, version := k.cfg.Book.Trust(); version != v.want.TrustGeneration || identity.TrustFingerprint(trusted) != identity.TrustFingerprint(v.want.CAs) {
		k.due = time.Time{}
		return v, errOtherTrust
	}
	// What the host has verified stays the last list of its group, also if somebody has spoilt it
	// in the state.
	if v.base = k.kept.Load(); v.base != nil {
		if v.verified = v.base.Manifest().Group == v.want.Group; !v.verified {
			if v.verified, err = k.stands(ctx, v.base, localRead); err != nil {
				return v, err
			}
		}
	}
	if !v.verified && (leads || next != nil) {
		if v.base, err = readNewest(ctx, k.cfg.Store, localRead); err != nil {
			return v, err
		}
	}
	v.late = k.isLate(v)
	return v, nil
}

// isLate reports whether the next list has been due for too long, by this host's own clock: also a
// voter that is asked to sign a new beginning has waited for it. A leader waits for as long as it
// leads, since its predecessor may have proposed nothing.
func (k *Keeper) isLate(v view) bool {
	if !v.verified || v.base.Manifest().Agrees(v.want) {
		k.due = time.Time{}
		return false
	}
	if after := v.base.Hash(); k.due.IsZero() || k.dueAfter != after {
		k.due, k.dueAfter = time.Now(), after
	}
	return time.Since(k.due) >= patience && (!v.leader || time.Since(k.leads) >= patience)
}

// propose writes the next list, with the leader's signature if it is worth something.
func (k *Keeper) propose(ctx context.Context, v view, stored raftstore.Record) error {
	m := proposal(v, time.Now().UTC())
	if m.Anew && v.base != nil {
		k.cfg.Logger.Warn("the list of the mesh's voters begins anew: hosts that are off now must be given the state again ('virtmesh agent resync --yes') when they come back", "version", m.Version)
	}
	next, err := manifest.Seal(m)
	if err == nil && maySign(v, next) {
		next, err = next.Sign(k.cfg.Sign)
	}
	if err != nil {
		return err
	}
	return k.write(ctx, v.base, next, stored)
}

// write writes a list that follows base: as published if enough have signed it and this host
// leads, and else as the one that waits.
func (k *Keeper) write(ctx context.Context, base, next *manifest.Signed, stored raftstore.Record) error {
	data, err := next.Encode()
	if err != nil {
		return err
	}
	m := next.Manifest()
	unchanged := []raftstore.Condition{{Key: NextKey, ModRevision: stored.ModRevision}}
	if next.IsSignedBy(electors(m, base)) != nil || !k.cfg.Group.IsLeader() {
		return k.commit(ctx, unchanged, raftstore.Op{Key: NextKey, Value: data})
	}
	ops := []raftstore.Op{{Key: Key(m.Version), Value: data}}
	if stored.ModRevision > 0 {
		ops = append(ops, raftstore.Op{Key: NextKey, Delete: true})
	}
	if m.Version > Kept {
		ops = append(ops, raftstore.Op{Key: Key(m.Version - Kept), Delete: true})
	}
	// What stands in this list's place already is none that follows.
	place, err := revisionOf(ctx, k.cfg.Store, Key(m.Version))
	if err != nil {
		return err
	}
	if err := k.commit(ctx, append(unchanged, raftstore.Condition{Key: Key(m.Version), ModRevision: place}), ops...); err != nil {
		return err
	}
	return k.follow(ctx)
}

// commit writes if nobody has written meanwhile. Who did has done what this host wanted to do, or
// the next step sees what is left of it.
func (k *Keeper) commit(ctx context.Context, unchanged []raftstore.Condition, ops ...raftstore.Op) error {
	_, err := k.cfg.Store.Commit(ctx, raftstore.Txn{If: unchanged, Ops: ops})
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write the list of voters: %w", err)
	}
	return nil
}
