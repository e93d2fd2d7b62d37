package membership

import (
	"context"
	"errors"
	"slices"

	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/raftstore"
)

// escrowKeeper keeps the newest recovery bundle good.
type escrowKeeper struct{ keyringKeeper }

func (m *Member) escrowKeeper() escrowKeeper { return escrowKeeper{m.keyringKeeper()} }

// custody returns where the keys of the mesh are: from level.Succession on as this host's
// keyring vouches for it, before that as the state has it.
func (k keyringKeeper) custody(ctx context.Context, opts raftstore.ReadOptions) (identity.Custody, error) {
	custody, err := identity.ReadCustody(ctx, k.store, opts)
	if err != nil || k.level() < level.Succession {
		return custody, err
	}
	return k.identity.Judge(custody), nil
}

// knownCustody returns where the keys of the mesh are, for who asks this host: as its keyring
// vouches for it if it votes, else as the state has it.
func (m *Member) knownCustody(ctx context.Context) (identity.Custody, error) {
	if slices.Contains(m.store.Voters(), m.config.Name) {
		return m.keyringKeeper().custody(ctx, localRead)
	}
	return identity.ReadCustody(ctx, m.store, localRead)
}

// recoverable returns the pins of the CAs in use whose keys the newest recovery bundle gives back, as
// this host's keyring vouches for; none if it cannot.
func (m *Member) recoverable(ctx context.Context) ([]identity.Pin, error) {
	custody, err := identity.ReadCustody(ctx, m.records, localRead)
	if errors.Is(err, identity.ErrNotSeeded) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	custody = m.identity.Judge(custody)
	return slices.DeleteFunc(custody.InUse, func(ca identity.Pin) bool { return !custody.Recoverable(ca) }), nil
}

// staysGood reports whether a recovery bundle (nil: there is none) will give back the keys that
// are made after it, too.
func (m *Member) staysGood(made *identity.BundleMade) bool {
	return m.store.FeatureLevel() >= level.Succession && made != nil && made.Recipient != ""
}

// step looks whether the newest bundle gives back all keys, and makes the next move, if one is
// due.
func (k escrowKeeper) step(ctx context.Context) (escrowAct, error) {
	k.noteVoters()
	stored, err := identity.ReadCustody(ctx, k.store, localRead)
	if err != nil {
		return nothingToEscrow, err
	}
	used, err := k.used(ctx, stored)
	if err != nil {
		return nothingToEscrow, err
	}
	act := planEscrow(k.view(stored, used))
	switch act {
	case settleNote:
		return act, k.settleNote(ctx)
	case forgetNote:
		return act, k.forgetNote(ctx)
	case putIntoEscrow:
		return act, k.putIntoEscrow(ctx)
	}
	return act, nil
}

// used returns the keys that a recovery needs.
func (k escrowKeeper) used(ctx context.Context, custody identity.Custody) (identity.Holds, error) {
	secrets, _, err := identity.ReadSecretKeys(ctx, k.store, localRead)
	used := identity.Holds{SecretKeyIDs: secrets.IDs()}
	for _, ca := range custody.InUse {
		used.CAPins = append(used.CAPins, ca.String())
	}
	return used, err
}

func (k escrowKeeper) view(stored identity.Custody, used identity.Holds) escrowView {
	judged := k.identity.Judge(stored)
	v := escrowView{
		level: k.level(), voter: slices.Contains(k.voters(), k.self), leader: k.leads(),
		known: judged.Bundle != nil, recipient: judged.Bundle != nil && judged.Bundle.Recipient != "",
		same:     sameNote(stored.Bundle, judged.Bundle),
		covered:  judged.Recovers(used),
		complete: k.identity.Holds(used),
	}
	return v
}

// mustRecover returns an error unless the newest recovery bundle gives back some keys, by the
// newest state, and the conditions under which that is still so when a change is committed:
// the change that lets the mesh depend on the keys.
func (k keyringKeeper) mustRecover(ctx context.Context, keys identity.Holds) ([]raftstore.Condition, error) {
	_, stored, err := identity.ReadEscrow(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	custody, err := k.custody(ctx, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	if !custody.Recovers(keys) {
		return nil, errors.New("no recovery bundle gives back the keys yet")
	}
	return []raftstore.Condition{{Key: stored.Key, ModRevision: stored.ModRevision}}, nil
}

// putIntoEscrow encrypts all keys that are in use for the recipient of the newest bundle.
func (k escrowKeeper) putIntoEscrow(ctx context.Context) error {
	custody, err := k.custody(ctx, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	_, stored, err := identity.ReadEscrow(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	used, err := k.used(ctx, custody)
	if err != nil {
		return err
	}
	escrow, err := k.identity.SealEscrow(custody.Bundle.Recipient, used)
	if err != nil {
		return err
	}
	return identity.StoreEscrow(ctx, k.store, stored, escrow)
}
