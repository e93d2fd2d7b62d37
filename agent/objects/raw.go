package objects

import (
	"context"
	"encoding/json"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"virtmesh/agent/kinds"
	"virtmesh/agent/skew"
	"virtmesh/raftstore"
)

// Raw is a stored object as JSON. It is for work on objects of every kind, including
// kinds that this program does not know: nothing is lost when the object is written
// back.
type Raw struct {
	*unstructured.Unstructured
	// StoreKey and Revision are those of the record.
	StoreKey string
	Revision uint64
}

// DecodeRaw returns the object of a record.
func DecodeRaw(rec raftstore.Record) (Raw, error) {
	r := Raw{Unstructured: &unstructured.Unstructured{}, StoreKey: rec.Key, Revision: rec.ModRevision}
	if err := DecodeShape(rec, &r.Object); err != nil {
		return Raw{}, err
	}
	if r.Object == nil {
		return Raw{}, fmt.Errorf("decode %s: not an object", rec.Key)
	}
	return r, nil
}

// ListRecords calls fn for every record below prefix at one revision, which it returns.
func ListRecords(ctx context.Context, s Store, prefix string, opts raftstore.ReadOptions, fn func(raftstore.Record) error) (uint64, error) {
	return listRecords(ctx, s, raftstore.ListRequest{Prefix: prefix, ReadOptions: opts}, fn)
}

// ListUnchanged is ListRecords for the records that were not changed after a revision.
// What it leaves out costs nothing, so a periodic task can pass over what it knows.
func ListUnchanged(ctx context.Context, s Store, prefix string, since uint64, opts raftstore.ReadOptions, fn func(raftstore.Record) error) (uint64, error) {
	return listRecords(ctx, s, raftstore.ListRequest{Prefix: prefix, UnchangedSince: since, ReadOptions: opts}, fn)
}

// UpdateRaw writes back r, which was changed since it was read. If r is being deleted
// and has no finalizer left, it is deleted.
func (t *Tx) UpdateRaw(r Raw) {
	t.Require(r.StoreKey, r.Revision)
	if r.GetDeletionTimestamp() != nil && !kinds.IsHeld(r.Unstructured) {
		t.Remove(r.StoreKey)
		return
	}
	b, err := json.Marshal(r.Object)
	if err != nil {
		t.fail(fmt.Errorf("encode %s: %w", r.StoreKey, err))
		return
	}
	t.addOp(raftstore.Op{Key: r.StoreKey, Value: b}, form{known: knownOfRaw})
}

// knownOfRaw returns what a Raw can hold of a stored object: all but numbers that are too
// great or too exact for Go's.
func knownOfRaw(stored []byte) ([]byte, error) { return skew.KnownOf[map[string]any](stored) }

// DeleteRaw deletes r, or, if it has finalizers, marks it as being deleted.
func (t *Tx) DeleteRaw(r Raw) {
	kinds.MarkDeleted(r.Unstructured, t.Clock.Now())
	t.UpdateRaw(r)
}
