package store

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/raftstore"
)

// Rehearse returns the error with which planners would refuse that obj replaces old at key. Old
// is nil for an object that is created, obj for one that is deleted. A dry run calls it in the
// place of the write.
func (s *Store) Rehearse(ctx context.Context, key string, obj, old runtime.Object) error {
	key, err := storage.PrepareKey(s.prefix+"/", key, false)
	if err != nil {
		return err
	}
	was := raftstore.Condition{Key: key}
	if old != nil {
		if was.ModRevision, err = s.versioner.ObjectResourceVersion(old); err != nil {
			return fmt.Errorf("rehearse %s: %w", key, err)
		}
	}
	op := raftstore.Op{Key: key, Delete: obj == nil}
	if obj != nil {
		if op.Value, err = runtime.Encode(s.codec, obj); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	err = s.backend.Rehearse(ctx, raftstore.Txn{If: []raftstore.Condition{was}, Ops: []raftstore.Op{op}})
	var changed *raftstore.ConflictError
	if err == nil || errors.As(err, &changed) { // the write would be repeated
		return nil
	}
	return writeError(s.resource, key, err)
}
