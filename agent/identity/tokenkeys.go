package identity

import (
	"context"
	"errors"
	"fmt"

	"virtmesh/agent/bearer"
	"virtmesh/raftstore"
)

// KeyTokenKeys holds the bearer.KeysRecord in the replicated store: the public keys by which hosts
// judge the tokens of service accounts.
const KeyTokenKeys = "/mesh/token-keys"

// ReadTokenKeys reads the keys that judge tokens, and the revision of their record. Both are zero
// as long as there is none.
func ReadTokenKeys(ctx context.Context, store Store, opts raftstore.ReadOptions) (bearer.KeysRecord, raftstore.Record, error) {
	var keys bearer.KeysRecord
	stored, err := readJSON(ctx, store, KeyTokenKeys, opts, &keys)
	if errors.Is(err, raftstore.ErrNotFound) {
		return bearer.KeysRecord{}, raftstore.Record{Key: KeyTokenKeys}, nil
	}
	return keys, stored, err
}

// StoreTokenKeys replaces the record of the keys that judge tokens as it was read, if some further
// conditions hold.
func StoreTokenKeys(ctx context.Context, store Store, stored raftstore.Record, keys bearer.KeysRecord, also ...raftstore.Condition) error {
	op, err := putOp(stored.Key, keys)
	if stored.ModRevision != 0 {
		op, err = rewriteOp(stored, keys)
	}
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: append([]raftstore.Condition{{Key: stored.Key, ModRevision: stored.ModRevision}}, also...), Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("store the keys that judge tokens: %w", err)
	}
	return nil
}
