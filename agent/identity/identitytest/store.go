// Package identitytest helps the tests of packages that need an identity: a store in
// memory and a mesh made with one call. It is for tests only.
package identitytest

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	"virtmesh/agent/identity"
	"virtmesh/raftstore"
)

// Store is an identity.Store in memory: conditions and revisions as in raftstore, no
// history, no constraints.
type Store struct {
	mu      sync.Mutex
	rev     uint64
	records map[string]raftstore.Record
	commits int

	// BeforeCommit, if set, runs before the conditions of each Commit are checked; if
	// it returns an error, the Commit fails with that error.
	BeforeCommit func(raftstore.Txn) error
	// AfterCommit, if set, runs after each Commit was applied; if it returns an error,
	// Commit returns that error although the change was made.
	AfterCommit func(raftstore.Txn) error
	// BeforeRead, if set, runs before each Get and List; if it returns an error, the
	// read fails with that error.
	BeforeRead func(raftstore.ReadOptions) error
}

var _ identity.Store = (*Store)(nil)

// NewStore returns an empty store.
func NewStore() *Store { return &Store{records: make(map[string]raftstore.Record)} }

// Commit applies a txn if its conditions hold.
func (s *Store) Commit(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	if err := ctx.Err(); err != nil {
		return raftstore.TxnResult{}, err
	}
	if s.BeforeCommit != nil {
		if err := s.BeforeCommit(txn); err != nil {
			return raftstore.TxnResult{}, err
		}
	}
	res, err := s.commit(txn)
	if err == nil && s.AfterCommit != nil {
		err = s.AfterCommit(txn)
	}
	return res, err
}

func (s *Store) commit(txn raftstore.Txn) (raftstore.TxnResult, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range txn.If {
		if have, ok := s.records[c.Key]; have.ModRevision != c.ModRevision {
			conflict := &raftstore.ConflictError{Key: c.Key, Want: c.ModRevision}
			if ok {
				conflict.Current = &have
			}
			return raftstore.TxnResult{}, conflict
		}
	}
	s.commits++
	var res raftstore.TxnResult
	for _, op := range txn.Ops {
		s.rev++
		res.OpRevisions = append(res.OpRevisions, s.rev)
		if op.Delete {
			delete(s.records, op.Key)
			continue
		}
		created := cmp.Or(s.records[op.Key].CreateRevision, s.rev)
		s.records[op.Key] = raftstore.Record{
			Key: op.Key, Value: slices.Clone(op.Value), CreateRevision: created, ModRevision: s.rev,
		}
	}
	res.Revision = s.rev
	return res, nil
}

// Get returns a record.
func (s *Store) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if err := s.read(ctx, opts); err != nil {
		return raftstore.Record{}, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	rec, ok := s.records[key]
	if !ok {
		return raftstore.Record{}, s.rev, raftstore.ErrNotFound
	}
	return rec, s.rev, nil
}

// List returns the records below a prefix.
func (s *Store) List(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	if err := s.read(ctx, req.ReadOptions); err != nil {
		return raftstore.ListResult{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	res := raftstore.ListResult{Revision: s.rev}
	for _, key := range slices.Sorted(maps.Keys(s.records)) {
		if strings.HasPrefix(key, req.Prefix) && key > req.After {
			res.Records = append(res.Records, s.records[key])
		}
	}
	if req.Limit > 0 && len(res.Records) > req.Limit {
		res.More, res.Remaining = true, int64(len(res.Records)-req.Limit)
		res.Records = res.Records[:req.Limit]
	}
	return res, nil
}

// Commits returns how many txns were applied.
func (s *Store) Commits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.commits
}

func (s *Store) read(ctx context.Context, opts raftstore.ReadOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.BeforeRead != nil {
		return s.BeforeRead(opts)
	}
	return nil
}
