package objects

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/raftstore"
)

// Store is the part of a replicated store that this package uses. FromRaft makes one
// from a *raftstore.Store.
type Store interface {
	// Commit applies t atomically and returns once the local replica has applied it.
	Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error)
	// Get returns the record at key and the revision of the store.
	Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error)
	// List returns the records below a prefix.
	List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error)
	// Watch delivers the changes below a prefix from the local replica.
	Watch(ctx context.Context, req raftstore.WatchRequest) (Watcher, error)
	// FeatureLevel returns the feature level of the mesh, as the local replica has it. It
	// never goes down.
	FeatureLevel() uint32
}

// Watcher is one running watch.
type Watcher interface {
	// Events returns the channel of events. It is closed when the watch ends.
	Events() <-chan raftstore.Event
	// Err returns why the watch ended, after the channel of Events was closed.
	Err() error
	// Stop ends the watch.
	Stop()
}

// Get returns one object. If it does not exist, the error is a NotFound of
// apimachinery.
func Get[T Object](ctx context.Context, s Store, key Key, opts raftstore.ReadOptions) (T, error) {
	var zero T
	kind := KindFor[T]()
	rec, _, err := s.Get(ctx, kind.StoreKey(key), opts)
	if errors.Is(err, raftstore.ErrNotFound) {
		return zero, apierrors.NewNotFound(kind.GroupResource(), key.Name)
	}
	if err != nil {
		return zero, fmt.Errorf("get %s %s: %w", kind.GVK.Kind, key, err)
	}
	return Decode[T](rec)
}

// GetMeta returns the metadata of one object of the kind of T, also of one that is encrypted and
// that the store does not open. If it does not exist, the error is a NotFound of apimachinery.
func GetMeta[T Object](ctx context.Context, s Store, key Key, opts raftstore.ReadOptions) (metav1.ObjectMeta, error) {
	kind := KindFor[T]()
	rec, _, err := s.Get(ctx, kind.StoreKey(key), opts)
	if errors.Is(err, raftstore.ErrNotFound) {
		return metav1.ObjectMeta{}, apierrors.NewNotFound(kind.GroupResource(), key.Name)
	}
	if err != nil {
		return metav1.ObjectMeta{}, fmt.Errorf("get %s %s: %w", kind.GVK.Kind, key, err)
	}
	var shape struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	return shape.Metadata, DecodeShape(rec, &shape)
}

// List returns all objects of a kind in namespace (all namespaces if empty), ordered by
// key, and the revision of the list.
func List[T Object](ctx context.Context, s Store, namespace string, opts raftstore.ReadOptions) ([]T, uint64, error) {
	kind := KindFor[T]()
	var out []T
	rev, err := listRecords(ctx, s, raftstore.ListRequest{Prefix: kind.NamespacePrefix(namespace), ReadOptions: opts}, func(rec raftstore.Record) error {
		o, err := Decode[T](rec)
		if err != nil {
			return err
		}
		out = append(out, o)
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", kind.Resource, err)
	}
	return out, rev, nil
}

// listRecords calls fn for every record that req asks for at one revision, which it
// returns. The list is one read, since its records are compact, so nothing is missing because the
// store has forgotten the revision meanwhile.
func listRecords(ctx context.Context, s Store, req raftstore.ListRequest, fn func(raftstore.Record) error) (uint64, error) {
	req.Compact = true
	res, err := s.List(ctx, req)
	if err != nil {
		return 0, err
	}
	for _, rec := range res.Records {
		if err := fn(rec.Expand()); err != nil {
			return 0, err
		}
	}
	return res.Revision, nil
}
