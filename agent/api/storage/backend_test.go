package storage_test

import (
	"testing"

	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// testBackend is a replica in memory whose history can be cut.
type testBackend struct{ *raftstore.Store }

func newTestBackend(t *testing.T) *testBackend { return &testBackend{raftstoretest.New(t)} }
