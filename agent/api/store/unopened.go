package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/kinds"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// sealable is whether objects of the kind can be encrypted in the store.
func (s *Store) sealable() bool {
	c, ok := s.codec.(*Codec)
	return ok && len(c.kind.Sealed) > 0
}

// errUnopened is the error of a list or watch that comes to an object that no key of the mesh
// opens. Without it they would be taken for whole ones, and with it for one without data. It comes
// before the first byte of the list, or of the event.
func errUnopened(rec raftstore.Record) error {
	kind, key, ok := kinds.ParseStoreKey(rec.Key)
	if !ok {
		return errors.New("no key of this mesh opens it")
	}
	return fmt.Errorf("no key of this mesh opens it, so nobody can read it any more; lists and watches work again once it is deleted: "+
		"'kubectl delete -n %s %s %s'", key.Namespace, strings.ToLower(kind.GVK.Kind), key.Name)
}

// WithoutUnopened returns the same store, whose lists leave out what no key of the mesh opens. It
// is for who takes care of those otherwise.
func (s *Store) WithoutUnopened() *Store {
	u := *s
	u.leavesUnopened = true
	return &u
}

// UnopenedNames returns the names of the objects below a key that no key of the mesh opens and
// that a selector matches, by what of them can be read.
func (s *Store) UnopenedNames(ctx context.Context, key string, pred storage.SelectionPredicate) ([]string, error) {
	prefix, err := storage.PrepareKey(s.prefix+"/", key, true)
	if err != nil {
		return nil, err
	}
	res, err := s.listRecords(ctx, raftstore.ListRequest{Prefix: prefix, Compact: true})
	if err != nil {
		return nil, s.readError(err, 0, s.backend.Revision())
	}
	var names []string
	for _, rec := range res.Records {
		rec = rec.Expand()
		if !sealed.IsSealed(rec.Value) {
			continue
		}
		obj := s.newFunc()
		if err := s.decodeReadable(rec, obj); err != nil {
			return nil, err
		}
		if ok, err := pred.Matches(obj); err != nil || !ok {
			continue
		}
		_, key, _ := kinds.ParseStoreKey(rec.Key)
		names = append(names, key.Name)
	}
	return names, nil
}

// DeleteUnopened deletes an object that no key of the mesh opens, of which only a part can be
// read. It reports false, and does nothing, for any other. The object that pre and validate
// judge, and that is read into out, has only what is not encrypted. Its finalizers do not hold it:
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
	if err := s.decodeReadable(rec, out); err != nil {
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

// decodeReadable reads of a stored object into out what is not encrypted: its metadata, and fields
// that are never sealed.
func (s *Store) decodeReadable(rec raftstore.Record, out runtime.Object) error {
	if err := json.Unmarshal(rec.Value, out); err != nil {
		return fmt.Errorf("read what is not encrypted of %s: %w", rec.Key, err)
	}
	return s.versioner.UpdateObject(out, rec.ModRevision)
}
