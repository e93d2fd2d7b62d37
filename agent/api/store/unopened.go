package store

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// DeleteUnopened deletes an object that no key of the mesh opens, whose metadata alone can be
// read. It reports false, and does nothing, for any other. The object that pre and validate
// judge, and that is read into out, has nothing but its metadata. Its finalizers do not hold it:
// nobody could take them off.
func (s *Store) DeleteUnopened(ctx context.Context, key string, out runtime.Object, pre *storage.Preconditions,
	validate storage.ValidateObjectFunc, dryRun bool) (bool, error) {
	key, err := storage.PrepareKey(s.prefix+"/", key, false)
	if err != nil {
		return false, err
	}
	// A list returns what nobody can open as it is stored. It fails while those who may have
	// the key do not answer.
	res, err := s.listRecords(ctx, raftstore.ListRequest{Prefix: key, Limit: 1})
	if err != nil {
		return false, s.readError(err, 0, s.backend.Revision())
	}
	if len(res.Records) == 0 || res.Records[0].Key != key {
		return false, nil
	}
	rec := res.Records[0].Expand()
	if !sealed.IsSealed(rec.Value) {
		return false, nil
	}
	if err := s.decodeMetadata(rec, out); err != nil {
		return true, err
	}
	if err := pre.Check(key, out); err != nil {
		return true, err
	}
	if err := validate(ctx, out); err != nil || dryRun {
		return true, err
	}
	rev, err := s.deleteRecord(ctx, key, rec.ModRevision)
	if err != nil {
		return true, err
	}
	return true, s.versioner.UpdateObject(out, rev)
}

// decodeMetadata reads the metadata of a stored object into out, and nothing else.
func (s *Store) decodeMetadata(rec raftstore.Record, out runtime.Object) error {
	var shape struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := objects.DecodeShape(rec, &shape); err != nil {
		return err
	}
	meta, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&shape)
	if err != nil {
		return fmt.Errorf("read the metadata of %s: %w", rec.Key, err)
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(meta, out); err != nil {
		return fmt.Errorf("read the metadata of %s: %w", rec.Key, err)
	}
	return s.versioner.UpdateObject(out, rec.ModRevision)
}
