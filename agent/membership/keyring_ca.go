package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// makeNextCA makes the CA that is to sign next: first its key is on the disk of this host, then
// its certificate in the mesh's state. What was made and not noted is dropped later.
func (k keyringKeeper) makeNextCA(ctx context.Context) error {
	rec, err := identity.ReadCARecord(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if _, ok := rec.NextCA(); ok || rec.Stage != identity.CAWanted {
		return nil // this host's copy was behind
	}
	return k.replaceNextCA(ctx, rec)
}

// replaceNextCA makes a CA instead of the next one, if there is any, of a record that waits for it.
func (k keyringKeeper) replaceNextCA(ctx context.Context, rec identity.CARecord) error {
	signing, err := identity.ParseCA(rec.Certificate, k.identity.CAKeyOf(rec.InUse()[0]))
	if err != nil {
		return err
	}
	next, successor, err := signing.NewSuccessor(rec.MeshID)
	if err != nil {
		return err
	}
	key, err := next.KeyPEM()
	if err != nil {
		return err
	}
	if err := k.identity.KeepCAKey(key); err != nil {
		return err
	}
	return identity.NoteNextCA(ctx, k.store, rec.Rotation, rec.Next, next.CertificatePEM(), successor)
}

// fetchNextCA gets the key of the next CA from another host. If the leader finds no host that
// holds it, its maker is gone, or a member has written a CA of its own there, whose key no voter
// takes; as long as that CA does not sign, the leader makes another one.
func (k keyringKeeper) fetchNextCA(ctx context.Context) error {
	rec, err := identity.ReadCARecord(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	next, ok := rec.NextCA()
	if !ok {
		return nil // this host's copy was behind
	}
	if err = rec.CheckNext(k.identity.CABundle()); err == nil {
		err = k.fetch(ctx, next)
	}
	if err == nil || !k.leads() || !k.identity.HoldsCAKey(rec.InUse()[0]) {
		return err
	}
	k.log.Warn("the next CA cannot be used, or no host that answers holds its key: another one is made", "err", err)
	if rec.Stage == identity.CAGiven {
		return identity.WantAnotherCA(ctx, k.store, rec.Rotation, next)
	}
	return k.replaceNextCA(ctx, rec)
}

// dropFormerKeys deletes the keys of CAs that the mesh has no use for, by its newest state.
func (k keyringKeeper) dropFormerKeys(ctx context.Context) error {
	rec, err := identity.ReadCARecord(ctx, k.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	kept := rec.Kept()
	if !k.identity.HoldsCAKey(kept[0]) {
		return errors.New("this host does not hold the key of the CA that signs")
	}
	if !slices.Contains(k.voters(), k.self) {
		return errors.New("this host does not vote any more")
	}
	if err := k.identity.DropCAKeysBut(kept...); err != nil {
		return fmt.Errorf("drop the keys of former CAs: %w", err)
	}
	return nil
}
