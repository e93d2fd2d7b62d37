package store_test

import (
	"context"
	"sync/atomic"
	"testing"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// testBackend is a replica in memory that can be told to have forgotten old
// revisions.
type testBackend struct {
	*objects.Replica
	compacted atomic.Uint64
}

func newTestBackend(t *testing.T) *testBackend {
	return &testBackend{Replica: objects.FromRaft(raftstoretest.New(t), nil)}
}

func (b *testBackend) compact(rev uint64) { b.compacted.Store(rev) }

func (b *testBackend) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	if req.Revision != 0 && req.Revision < b.compacted.Load() {
		return raftstore.ListResult{}, raftstore.ErrCompacted
	}
	return b.Replica.List(ctx, req)
}

func (b *testBackend) Watch(ctx context.Context, req raftstore.WatchRequest) (objects.Watcher, error) {
	if req.Revision != 0 && req.Revision < b.compacted.Load() {
		return nil, raftstore.ErrCompacted
	}
	return b.Replica.Watch(ctx, req)
}
