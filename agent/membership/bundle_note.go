package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"virtmesh/agent/identity"
	"virtmesh/agent/port/keyring"
	"virtmesh/raftstore"
)

// sameNote reports whether what the state says of the newest bundle is what a keyring knows.
func sameNote(stored, known *identity.BundleMade) bool {
	if stored == nil || known == nil {
		return stored == known
	}
	return stored.Same(*known)
}

// newerNote reports whether the note that another voter knows comes before the one that this host
// has found so far (nil: none). Among equals the one that is in the state wins.
func newerNote(have, other, stored *identity.BundleMade) bool {
	switch {
	case other == nil:
		return false
	case have == nil || other.Number > have.Number:
		return true
	}
	return other.Number == have.Number && sameNote(stored, other) && !sameNote(stored, have)
}

// knowsNote returns the test of whether a voter's keyring knows a bundle (nil: none), or a newer one.
func knowsNote(known *identity.BundleMade) func(keyring.Holding) bool {
	return func(h keyring.Holding) bool {
		return known == nil || h.Bundle != nil && h.Bundle.Number >= known.Number
	}
}

// noteVoters notes who votes now.
func (k keyringKeeper) noteVoters() {
	for _, host := range k.voters() {
		k.voted.Store(host, true)
	}
}

// formerVoters returns the other hosts that gossip hears and that this one has seen voting.
func (k keyringKeeper) formerVoters() []string {
	return slices.DeleteFunc(slices.Clone(k.live()), func(host string) bool {
		_, voted := k.voted.Load(host)
		return !voted || host == k.self || slices.Contains(k.voters(), host)
	})
}

// settleNote asks the other voters which recovery bundle is the newest. If one knows a newer
// bundle than this host, the host takes the note over from it; if nobody does, and all have
// answered, the note in the state was written by somebody who made no bundle, and the leader
// puts the right one back. If no voter knows any, such as after the last one has handed over its
// vote, those that voted before are asked. A note that nobody knows counts for nothing.
func (k escrowKeeper) settleNote(ctx context.Context) error {
	stored, err := identity.ReadCustody(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	known := k.identity.KnownBundle()
	newest, err := k.newestNote(ctx, k.voters(), known, stored.Bundle)
	if newest == nil && err == nil {
		newest, err = k.newestNote(ctx, k.formerVoters(), nil, stored.Bundle)
	}
	switch {
	case newest != known:
		return k.identity.KnowBundle(*newest)
	case err != nil:
		return fmt.Errorf("which recovery bundle is the newest: %w", err)
	case sameNote(stored.Bundle, known):
		return nil // this host's copy was behind
	case !k.leads():
		return errors.New("the mesh's state names another recovery bundle than the keyrings of the voters: the leader has not set this right yet")
	case known != nil:
		k.log.Warn("the mesh's state named a recovery bundle that no voter knows: put the newest one back", "known", known.Made, "host", known.Host)
		return identity.RecordBundle(ctx, k.store, *known)
	case stored.Bundle.Recipient == "":
		// It is from before the keyrings knew bundles. Nobody gets a key by it.
		return k.identity.KnowBundle(*stored.Bundle)
	}
	return errors.New("the mesh's state names a recovery bundle that no voter knows, so it counts for nothing: make a new one, with 'virtmesh keyring bundle --output FILE'")
}

// newestNote returns the newest note that the keyrings of some hosts know, and this host's (nil:
// none). It is this host's if no other is newer. The error says who does not answer.
func (k escrowKeeper) newestNote(ctx context.Context, hosts []string, newest, stored *identity.BundleMade) (*identity.BundleMade, error) {
	var silent []error
	for _, host := range hosts {
		if host == k.self {
			continue
		}
		holding, err := k.client.Holding(ctx, host)
		switch {
		case err != nil:
			silent = append(silent, err)
		case newerNote(newest, holding.Bundle, stored):
			newest = holding.Bundle
		}
	}
	return newest, errors.Join(silent...)
}

// forgetNote deletes what this host's keyring knows of the newest bundle, once every voter
// knows at least as much.
func (k escrowKeeper) forgetNote(ctx context.Context) error {
	known := k.identity.KnownBundle()
	err := k.everyVoterHas(ctx, "the note of the recovery bundle", knowsNote(known))
	if err != nil {
		return err
	}
	if slices.Contains(k.voters(), k.self) {
		return errors.New("this host votes now")
	}
	return k.identity.ForgetBundle()
}
