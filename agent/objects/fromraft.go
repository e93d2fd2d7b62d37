package objects

import (
	"context"

	"virtmesh/raftstore"
)

// FromRaft returns s as a Store.
func FromRaft(s *raftstore.Store) Store { return raftStore{s} }

// raftStore differs from *raftstore.Store only in that Watch returns an
// interface, so that tests can stand in for it.
type raftStore struct{ *raftstore.Store }

var _ Store = raftStore{}

// Watch implements Store.
func (r raftStore) Watch(ctx context.Context, req raftstore.WatchRequest) (Watcher, error) {
	w, err := r.Store.Watch(ctx, req)
	if err != nil {
		return nil, err
	}
	return w, nil
}
