package membership

import (
	"context"
	"maps"
	"slices"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// demotedAct is what the leader did about the record of the hosts that have voted and may not
// vote any more.
type demotedAct int

const (
	// nothingDemoted: the record is as it should be.
	nothingDemoted demotedAct = iota
	// recordDemoted: the leader has changed it.
	recordDemoted
	// replaceKeys: the leader has asked for keys instead of those that such hosts have had.
	replaceKeys
)

// String names the act for logs.
func (a demotedAct) String() string {
	return [...]string{"nothing", "note which hosts may not vote any more", "replace keys that hosts have had that may not vote any more"}[a]
}

// demotedKeeper keeps the record of the hosts that have voted and may not vote any more, so
// that the administrator is told which keys they have until those are replaced, and replaces
// them an hour later.
type demotedKeeper struct {
	store  identity.Store
	limit  func(context.Context) (raftstore.VoterLimit, error)
	voters func() []string
	leads  func() bool
	// replace asks for the replacement of keys that are due, and reports whether it did.
	replace func(ctx context.Context, demoted []identity.DemotedVoter, now time.Time) (bool, error)
	// resealed reports whether everything that is stored is encrypted with the active key of
	// the keys for Secrets that are stored as given.
	resealed func(stored raftstore.Record) bool
	// voted are the hosts that this one has seen voting, and that are not in the record since.
	voted map[string]bool
}

func (m *Member) demotedKeeper() demotedKeeper {
	limit := func(ctx context.Context) (raftstore.VoterLimit, error) { return readVoterLimit(ctx, m.store) }
	return demotedKeeper{
		store: m.records, limit: limit, voters: m.store.Voters, leads: m.store.IsLeader,
		replace: demotedKeys{m}.replaceDue, resealed: m.resealed, voted: map[string]bool{},
	}
}

// resealed reports whether this host, as the leader, has seen that everything that is stored is
// encrypted with the active key, since the keys were stored as given.
func (m *Member) resealed(stored raftstore.Record) bool {
	return m.secretsDone.Load() == stored.ModRevision
}

// step notes who votes, and on the leader brings the record up to date.
func (k demotedKeeper) step(ctx context.Context) (demotedAct, error) {
	rec, stored, err := identity.ReadDemoted(ctx, k.store, localRead)
	if err != nil {
		return nothingDemoted, err
	}
	view := demotedView{voters: k.voters(), known: rec.Hosts, now: time.Now().UTC()}
	for _, host := range rec.Hosts {
		delete(k.voted, host.Host)
	}
	for _, host := range view.voters {
		k.voted[host] = true
	}
	if !k.leads() {
		return nothingDemoted, nil
	}
	if view.limit, err = k.limit(ctx); err != nil {
		return nothingDemoted, err
	}
	if len(view.limit.Nodes)+len(view.limit.Exclude)+len(rec.Hosts) == 0 {
		return nothingDemoted, nil
	}
	view.voted = slices.Collect(maps.Keys(k.voted))
	if view.cas, view.secrets, err = keysInUse(ctx, k.store, k.resealed); err != nil {
		return nothingDemoted, err
	}
	hosts, changed := planDemoted(view)
	if !changed {
		asked, err := k.replace(ctx, rec.Hosts, view.now)
		if !asked {
			return nothingDemoted, err
		}
		return replaceKeys, err
	}
	return recordDemoted, identity.StoreDemoted(ctx, k.store, stored, identity.DemotedRecord{Hosts: hosts})
}

// keysInUse returns the keys that a voter has and the mesh needs, by this host's copy: the pins
// of the CAs, sorted, while the CA is replaced also of the one before and the next one, and the
// names of the keys for Secrets that may have encrypted something: only the active one, if
// resealed says that all is encrypted with it.
func keysInUse(ctx context.Context, store identity.Store, resealed func(stored raftstore.Record) bool) (cas, secrets []string, err error) {
	rec, err := identity.ReadCARecord(ctx, store, localRead)
	if err != nil {
		return nil, nil, err
	}
	for _, pin := range rec.Kept() {
		cas = append(cas, pin.String())
	}
	slices.Sort(cas)
	keys, stored, err := identity.ReadSecretKeys(ctx, store, localRead)
	secrets = keys.InUse()
	if keys.Active != "" && resealed(stored) {
		secrets = []string{keys.Active}
	}
	return slices.Compact(cas), secrets, err
}

// demotedView is what the leader knows when it decides about the record of demoted voters.
type demotedView struct {
	limit raftstore.VoterLimit
	// voters vote now; voted are those and the ones that were seen voting before.
	voters, voted []string
	// cas and secrets are as in keysInUse.
	cas, secrets []string
	// known is the record as it is.
	known []identity.DemotedVoter
	now   time.Time
}

// planDemoted returns the record as it should be, and whether that is a change. A host is in it
// that has voted and may not, until no key is in use that it had, or until it may vote again. As
// long as it votes, it gets every new key.
func planDemoted(v demotedView) (hosts []identity.DemotedVoter, changed bool) {
	for _, host := range v.known {
		ca, secrets := host.InUse(v.cas, v.secrets)
		if v.limit.Allows(host.Host) || !ca && len(secrets) == 0 {
			changed = true
			continue
		}
		hosts = append(hosts, host)
	}
	for _, name := range slices.Sorted(slices.Values(v.voted)) {
		votes := slices.Contains(v.voters, name)
		i := slices.IndexFunc(hosts, func(h identity.DemotedVoter) bool { return h.Host == name })
		if v.limit.Allows(name) || i >= 0 && !votes {
			continue
		}
		has := identity.DemotedVoter{Host: name, Since: v.now, CAPins: v.cas, SecretKeys: v.secrets}
		switch {
		case i < 0:
			hosts, changed = append(hosts, has), true
		case !slices.Equal(hosts[i].CAPins, has.CAPins) || !slices.Equal(hosts[i].SecretKeys, has.SecretKeys):
			hosts[i], changed = has, true
		}
	}
	return hosts, changed
}
