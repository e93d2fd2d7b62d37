package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
	"virtmesh/agent/port/keyring"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// localRead reads this host's copy.
var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// listedSecretKeys returns the names of the mesh's keys for Secrets, by this host's copy.
func (m *Member) listedSecretKeys(ctx context.Context) ([]string, error) {
	keys, _, err := identity.ReadSecretKeys(ctx, m.store, localRead)
	return keys.IDs(), err
}

// secretsKeeper keeps the keys for Secrets where they belong, and encrypts what is stored
// otherwise.
type secretsKeeper struct {
	keyringKeeper
	vault   *sealed.Vault
	replica objects.Raft
	// done is the revision of the record of the keys for which everything is encrypted: what
	// is written since then is. A new leader looks once through all objects of the kinds.
	done *atomic.Uint64
}

func (m *Member) secretsKeeper() secretsKeeper {
	return secretsKeeper{keyringKeeper: m.keyringKeeper(), vault: m.vault, replica: m.records, done: &m.secretsDone}
}

// step looks where the keys are and makes the next move, if one is due.
func (k secretsKeeper) step(ctx context.Context) (secretsAct, error) {
	keys, stored, err := identity.ReadSecretKeys(ctx, k.store, localRead)
	if err != nil {
		return nothingToSeal, err
	}
	view, err := k.view(ctx, keys, stored)
	if err != nil {
		return nothingToSeal, err
	}
	act := planSecrets(view)
	switch act {
	case makeSecretKey:
		return act, k.make(ctx, keys, stored)
	case fetchSecretKeys:
		return act, k.fetch(ctx, keys, stored)
	case dropSecretKeys:
		return act, k.dropUnusedKeys(ctx)
	case useSecretKey:
		return act, k.use(ctx, keys, stored)
	case chooseKinds:
		return act, k.chooseKinds(ctx, keys, stored)
	case sealObjects:
		return act, k.seal(ctx, keys, stored)
	}
	return act, nil
}

func (k secretsKeeper) view(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record) (secretsView, error) {
	k.noteVoters()
	v := secretsView{
		level: k.level(), voter: slices.Contains(k.voters(), k.self), leader: k.leads(),
		listed: len(keys.Keys) > 0, pending: keys.Pending() != "", active: keys.Active != "", rotate: keys.Rotate,
		unsealed: k.done.Load() != stored.ModRevision,
	}
	if v.level < level.Apart {
		return v, nil
	}
	held := k.identity.SecretKeyIDs()
	if _, err := keys.Recipient(); err != nil {
		v.active = false // somebody has spoilt the record: using the newest key sets it right
	}
	if v.level >= level.Succession && v.leader {
		named, err := k.namedKinds(ctx)
		if err != nil {
			return v, err
		}
		v.renamed = !slices.Equal(named, keys.Kinds)
	}
	missing := k.missing(keys)
	v.missing = len(missing) > 0
	v.opens = !slices.ContainsFunc(missing, func(id string) bool { return id != keys.Pending() })
	v.surplus = slices.ContainsFunc(held, func(id string) bool { return !v.voter || !slices.Contains(keys.IDs(), id) }) ||
		(!v.voter || !v.missing) && k.identity.UnopenedSecretKeys()
	v.shut = mayOpenKeys(k.identity)
	if v.pending {
		custody, err := k.custody(ctx, localRead)
		if err != nil {
			return v, err
		}
		v.bundled = custody.RecoversSecretKeys(keys.IDs())
	}
	return v, nil
}

// missing returns the names of the keys that this host does not hold.
func (k secretsKeeper) missing(keys identity.SecretKeysRecord) []string {
	held := k.identity.SecretKeyIDs()
	return slices.DeleteFunc(keys.IDs(), func(id string) bool { return slices.Contains(held, id) })
}

// make makes the next key. The first one was made with the mesh, if this host founded it.
func (k secretsKeeper) make(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record) error {
	var next sealed.PrivateKey
	var err error
	if held := k.identity.SecretKeys(); len(keys.Keys) == 0 && len(held) > 0 {
		next = held[len(held)-1] // after a restore there may be older ones, which were replaced for a reason
	} else if next, err = sealed.NewKey(); err != nil {
		return err
	}
	if err := k.identity.KeepSecretKeys(next); err != nil {
		return err
	}
	keys.Rotate = false
	keys.Keys = append(slices.Clone(keys.Keys), identity.NewSecretKeyRecord(next))
	return identity.StoreSecretKeys(ctx, k.store, stored, keys)
}

// fetch gets the keys that this host lacks, from voters or from a host that voted and still
// holds them, such as the last voter, which leaves. Others are not asked: below level.Access any
// host can write a key of its own into the record, and must not see the voters use it.
func (k secretsKeeper) fetch(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record) error {
	var failed []error
	for _, host := range append(k.voters(), k.formerVoters()...) {
		missing := k.missing(keys)
		if host == k.self || len(missing) == 0 {
			continue
		}
		have, err := k.client.FetchSecretKeys(ctx, host)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		have = slices.DeleteFunc(have, func(key sealed.PrivateKey) bool { return !slices.Contains(missing, key.ID()) })
		if err := k.identity.KeepSecretKeys(have...); err != nil {
			return err
		}
	}
	missing := k.missing(keys)
	if len(missing) == 0 {
		return nil
	}
	others := slices.DeleteFunc(slices.Clone(missing), func(id string) bool { return id == keys.Active })
	if k.leads() && len(failed) == 0 && len(others) > 0 && !mayOpenKeys(k.identity) {
		return k.forgetLostKeys(ctx, keys, stored, others)
	}
	return errors.Join(append(failed, fmt.Errorf("no host that answers holds the key for Secrets %q", missing))...)
}

// forgetLostKeys takes keys that no host holds from the record, so that the mesh goes on without them:
// the pending one, whose maker is gone, and older ones, once nothing is encrypted with them.
func (k secretsKeeper) forgetLostKeys(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record, lost []string) error {
	for _, kind := range sealed.Kinds() {
		all, err := k.store.List(ctx, raftstore.ListRequest{Prefix: kind.Prefix(), Compact: true})
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, rec := range all.Records {
			if id := sealed.KeyOf(rec.Expand()); slices.Contains(lost, id) {
				return fmt.Errorf("no host holds the key for Secrets %s, which encrypts %s: delete what is encrypted with it, or make the mesh anew from a backup and the recovery bundle of its time", id, rec.Key)
			}
		}
	}
	keys.Rotate = keys.Rotate || slices.Contains(lost, keys.Pending())
	keys.Keys = slices.DeleteFunc(slices.Clone(keys.Keys), func(key identity.SecretKeyRecord) bool { return slices.Contains(lost, key.ID) })
	return identity.StoreSecretKeys(ctx, k.store, stored, keys)
}

// dropUnusedKeys deletes keys from this host: all if it does not vote, else those that are not
// used. It asks the mesh which these are: this host's copy may be from before it got the newest
// one, which nobody else may have yet.
func (k secretsKeeper) dropUnusedKeys(ctx context.Context) error {
	keys, _, err := identity.ReadSecretKeys(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if slices.Contains(k.voters(), k.self) {
		return k.identity.RetainSecretKeys(keys.IDs()...)
	}
	if err := k.everyVoterHas(ctx, "the keys for Secrets", holdsSecretKeys(keys.IDs())); err != nil {
		return err
	}
	if slices.Contains(k.voters(), k.self) {
		return errors.New("this host votes now")
	}
	return k.identity.RetainSecretKeys()
}

// holdsSecretKeys returns the test of whether a host holds keys for Secrets.
func holdsSecretKeys(ids []string) func(keyring.Holding) bool {
	return func(h keyring.Holding) bool {
		return !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(h.SecretKeys, id) })
	}
}

// keptOldKeys is how many keys the mesh keeps that do not encrypt any more. Everything that is
// stored is encrypted with the active one; who reads what was stored before, such as a watch
// that goes on from an earlier revision, needs the key before it.
const keptOldKeys = 1

// use lets the pending key encrypt from now on.
func (k secretsKeeper) use(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record) error {
	if err := k.everyVoterHas(ctx, "the keys for Secrets", holdsSecretKeys(keys.IDs())); err != nil {
		return err
	}
	recovered, err := k.mustRecover(ctx, identity.Holds{SecretKeyIDs: keys.IDs()})
	if err != nil {
		return err
	}
	keys.Active = keys.Pending()
	if old := len(keys.Keys) - 1 - keptOldKeys; old > 0 && k.done.Load() == stored.ModRevision {
		keys.Keys = slices.Clone(keys.Keys[old:])
	}
	return identity.StoreSecretKeys(ctx, k.store, stored, keys, recovered...)
}

// SecretKeys implements admin.Keys, by this host's copy.
func (m *Member) SecretKeys(ctx context.Context) (*admin.SecretKeys, error) {
	keys, stored, err := identity.ReadSecretKeys(ctx, m.store, localRead)
	if err != nil {
		return nil, err
	}
	with, err := recipientOf(keys, stored)
	if err != nil {
		return nil, err
	}
	status := &admin.SecretKeys{Active: keys.Active, Waiting: keys.Pending(), Wanted: keys.Rotate}
	custody, err := m.knownCustody(ctx)
	if err != nil {
		return nil, fmt.Errorf("read which keys the recovery bundle gives back: %w", err)
	}
	status.StaysGood = m.staysGood(custody.Bundle)
	if status.Waiting != "" {
		status.Bundled = custody.RecoversSecretKeys(keys.IDs())
		m.whatKeyWaitsFor(ctx, status)
	}
	for _, kind := range sealed.Kinds() {
		all, err := m.store.List(ctx, raftstore.ListRequest{Prefix: kind.Prefix(), Compact: true, ReadOptions: localRead})
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, rec := range all.Records {
			rec = rec.Expand()
			current, err := m.vault.IsCurrent(with, rec)
			switch {
			case !sealed.IsSealed(rec.Value) && current: // it is to be in clear
			case !sealed.IsSealed(rec.Value):
				status.Clear++
			case err == nil && current:
				status.Current++
			default:
				status.Older++
			}
		}
	}
	return status, nil
}

// whatKeyWaitsFor adds to a status who does not have the key that waits.
func (m *Member) whatKeyWaitsFor(ctx context.Context, status *admin.SecretKeys) {
	has := holdsSecretKeys([]string{status.Waiting})
	for _, voter := range m.store.Voters() {
		var err error
		holding := keyring.Holding{SecretKeys: m.identity.SecretKeyIDs()}
		if voter != m.config.Name {
			if holding, err = m.voters.Holding(ctx, voter); err != nil {
				status.Silent = append(status.Silent, voter)
				continue
			}
		}
		if !has(holding) {
			status.Lacking = append(status.Lacking, voter)
		}
	}
}

// RotateSecretKey implements admin.Keys.
func (m *Member) RotateSecretKey(ctx context.Context) error {
	keys, stored, err := identity.ReadSecretKeys(ctx, m.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	switch {
	case m.store.FeatureLevel() < level.Apart:
		return fault.New(fault.Conflict, "Secrets are encrypted from feature level %d on, and the mesh is at %d", level.Apart, m.store.FeatureLevel()).
			WithRemedy("raise the mesh's feature level first: 'virtmesh level' says how")
	case keys.Rotate || keys.Pending() != "":
		return nil // one is on its way
	case keys.Active == "":
		return fault.New(fault.Conflict, "Secrets are not encrypted yet: their first key is being made").WithRemedy("try again in a few seconds")
	}
	keys.Rotate = true
	return identity.StoreSecretKeys(ctx, m.records, stored, keys)
}
