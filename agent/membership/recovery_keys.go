package membership

import (
	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// takeRecovered puts into the keyring of the host what the state has for a recovery bundle (nil:
// there is none): the keys that are in escrow for it, and the note of the bundle itself, which
// no other voter can tell any more.
func takeRecovered(state raftstore.View, id *identity.Identity, bundle *identity.Bundle) error {
	if bundle == nil {
		return nil
	}
	if err := takeNote(state, id, *bundle); err != nil {
		return err
	}
	raw, ok := state.Get(identity.KeyEscrow)
	if !ok {
		return nil
	}
	// Any host could write the record, so what is wrong with it stops no recovery: what the
	// bundle itself has may do, and founding says which key is missing.
	escrow, err := identity.ParseEscrow(raw.Value)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	opened, err := bundle.WithEscrow(escrow)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	return id.TakeBundle(opened)
}

// takeNote puts the note of a bundle into the keyring of the host, if the state has it.
func takeNote(state raftstore.View, id *identity.Identity, bundle identity.Bundle) error {
	recipient, err := bundle.Recipient()
	if err != nil || recipient == "" {
		return err
	}
	raw, ok := state.Get(identity.KeyBundles)
	if !ok {
		return nil
	}
	bundles, err := identity.ParseBundles(raw.Value)
	if err != nil || bundles.Last.Recipient != recipient {
		return nil //nolint:nilerr // any host could write the record; the mesh then knows of no bundle
	}
	return id.KnowBundle(bundles.Last)
}
