package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"virtmesh/agent/identity"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// sealedAtOnce bounds how many objects a step encrypts, so that the mesh has time for others:
// the steps are keyringPause apart.
const sealedAtOnce = 50

// seal encrypts some of the objects that are stored otherwise than they would be now. It may
// end at any time: the next step, on whichever host leads then, goes on.
func (k secretsKeeper) seal(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record) error {
	with, err := recipientOf(keys, stored)
	if err != nil {
		return err
	}
	var old []raftstore.Record
	for _, kind := range sealed.Kinds() {
		all, err := k.store.List(ctx, raftstore.ListRequest{Prefix: kind.Prefix(), Compact: true})
		if err != nil {
			return fmt.Errorf("list %s: %w", kind.Resource, err)
		}
		for _, rec := range all.Records {
			if current, err := k.vault.IsCurrent(with, rec.Expand()); err == nil && !current {
				old = append(old, rec)
			}
		}
	}
	done := 0
	for some := range slices.Chunk(old, sealedAtOnce) {
		now, err := k.sealAgain(ctx, some)
		if done += now; err != nil || done >= sealedAtOnce {
			return err
		}
	}
	if done > 0 {
		return nil // look again
	}
	if len(old) > 0 {
		k.log.Warn("objects stay as they are: no key of the mesh opens them", "objects", len(old), "first", old[0].Key)
	}
	k.done.Store(stored.ModRevision)
	return nil
}

// sealAgain opens records and stores them again, each unless it has changed. It returns how
// many of them were stored, or changed by others; the rest nobody can open.
func (k secretsKeeper) sealAgain(ctx context.Context, records []raftstore.Record) (int, error) {
	for i, rec := range records {
		records[i] = rec.Expand()
	}
	values, err := k.vault.Open(ctx, records)
	if err != nil {
		return 0, err
	}
	stored := 0
	for i, rec := range records {
		if values[i] == nil {
			continue
		}
		value, while, err := k.vault.Seal(ctx, rec.Key, values[i])
		if err != nil {
			return stored, fmt.Errorf("encrypt %s: %w", rec.Key, err)
		}
		unchanged := []raftstore.Condition{{Key: rec.Key, ModRevision: rec.ModRevision}}
		if while.Key != "" {
			unchanged = append(unchanged, while)
		}
		_, err = k.store.Commit(ctx, raftstore.Txn{If: unchanged, Ops: []raftstore.Op{{Key: rec.Key, Value: value}}})
		if err != nil && !errors.As(err, new(*raftstore.ConflictError)) {
			return stored, fmt.Errorf("encrypt %s: %w", rec.Key, err)
		}
		stored++
	}
	return stored, nil
}
