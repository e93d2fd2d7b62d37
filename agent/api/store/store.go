package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Backend is the part of the replicated store that this package uses. *objects.Replica
// implements it.
type Backend interface {
	objects.Store
	// Revision returns the newest revision that the local replica has applied.
	Revision() uint64
	// Scan returns the records below a prefix, compact, all from the state at the returned
	// revision, as they are taken.
	Scan(ctx context.Context, prefix string, o raftstore.ReadOptions) (iter.Seq[raftstore.Record], uint64, error)
	// Rehearse returns why planners refuse a transaction (kinds.Planner), and commits nothing.
	Rehearse(ctx context.Context, t raftstore.Txn) error
}

var _ Backend = (*objects.Replica)(nil)

// Config describes one Store.
type Config struct {
	// Backend stores the records.
	Backend Backend
	// Codec encodes objects to stored bytes and decodes them.
	Codec runtime.Codec
	// Resource is named in errors.
	Resource schema.GroupResource
	// Prefix is the key prefix of the resource, without a trailing slash.
	Prefix string
	// New returns an empty object.
	New func() runtime.Object
	// InNamespaces makes a creation fail unless the object's Namespace is there.
	InNamespaces bool
	// Patience is how long a request waits for the mesh to have a leader before the
	// client is told to retry. Zero means DefaultPatience.
	Patience time.Duration
	// Turns bounds the memory of undecoded lists that have to be decoded; nil bounds
	// nothing.
	Turns *Turns
	// BookmarkInterval is how often an idle watch that allows bookmarks sends the
	// current revision. Zero means DefaultBookmarkInterval.
	BookmarkInterval time.Duration
}

// DefaultPatience is longer than an election takes, and shorter than users are willing
// to wait.
const DefaultPatience = 10 * time.Second

// DefaultBookmarkInterval is the time between bookmarks of an idle watch.
const DefaultBookmarkInterval = time.Minute

// Store keeps the objects of one resource. It is safe for concurrent use.
type Store struct {
	backend      Backend
	codec        runtime.Codec
	resource     schema.GroupResource
	prefix       string
	newFunc      func() runtime.Object
	inNamespaces bool
	patience     time.Duration
	bookmarks    time.Duration
	versioner    storage.Versioner
	turns        *Turns
	form         *form // nil if lists and watches are of decoded objects
	// leavesUnopened is whether lists leave out what nobody can open, instead of failing.
	leavesUnopened bool
}

var _ storage.Interface = (*Store)(nil)

// New returns a Store.
func New(c Config) *Store {
	if c.BookmarkInterval <= 0 {
		c.BookmarkInterval = DefaultBookmarkInterval
	}
	if c.Patience <= 0 {
		c.Patience = DefaultPatience
	}
	return &Store{
		backend:      c.Backend,
		codec:        c.Codec,
		resource:     c.Resource,
		prefix:       c.Prefix,
		newFunc:      c.New,
		inNamespaces: c.InNamespaces,
		patience:     c.Patience,
		bookmarks:    c.BookmarkInterval,
		turns:        c.Turns,
		versioner:    storage.APIObjectVersioner{},
	}
}

// Versioner implements storage.Interface.
func (s *Store) Versioner() storage.Versioner { return s.versioner }

// Get implements storage.Interface.
func (s *Store) Get(ctx context.Context, key string, opts storage.GetOptions, out runtime.Object) error {
	key, err := storage.PrepareKey(s.prefix+"/", key, false)
	if err != nil {
		return err
	}
	ro, err := s.readOptions(opts.ResourceVersion)
	if err != nil {
		return err
	}
	rec, rev, err := s.getRecord(ctx, key, ro)
	switch {
	case errors.Is(err, raftstore.ErrNotFound):
		if opts.IgnoreNotFound {
			return runtime.SetZeroValue(out)
		}
		return storage.NewKeyNotFoundError(key, 0)
	case err != nil:
		return s.readError(err, ro.MinRevision, max(rev, s.backend.Revision()))
	}
	return s.decodeObject(rec.Value, out, rec.ModRevision)
}

// Create implements storage.Interface. The time to live is not honoured.
func (s *Store) Create(ctx context.Context, key string, obj, out runtime.Object, _ uint64) error {
	key, err := storage.PrepareKey(s.prefix+"/", key, false)
	if err != nil {
		return err
	}
	if v, err := s.versioner.ObjectResourceVersion(obj); err == nil && v != 0 {
		return storage.ErrResourceVersionSetOnCreate
	}
	if err := s.versioner.PrepareObjectForStorage(obj); err != nil {
		return fmt.Errorf("prepare %s for storage: %w", key, err)
	}
	data, err := runtime.Encode(s.codec, obj)
	if err != nil {
		return err
	}
	rev, err := s.createRecord(ctx, key, data)
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return storage.NewKeyExistsError(key, 0)
	}
	if err != nil {
		return err
	}
	if out == nil {
		return nil
	}
	return s.decodeObject(data, out, rev)
}

// Stats implements storage.Interface.
func (s *Store) Stats(ctx context.Context) (storage.Stats, error) {
	res, err := s.backend.List(ctx, raftstore.ListRequest{
		Prefix:      s.prefix + "/",
		Limit:       1,
		ReadOptions: raftstore.ReadOptions{Consistency: raftstore.Local},
	})
	if err != nil {
		return storage.Stats{}, fmt.Errorf("count %s: %w", s.resource, err)
	}
	return storage.Stats{ObjectCount: int64(len(res.Records)) + res.Remaining}, nil
}

// ReadinessCheck implements storage.Interface. The store is always ready; whether the
// mesh has a leader is a separate health check.
func (s *Store) ReadinessCheck() error { return nil }

// RequestWatchProgress implements storage.Interface. It does nothing, because watches
// read the local replica.
func (s *Store) RequestWatchProgress(context.Context) error { return nil }

// GetCurrentResourceVersion implements storage.Interface. It is linearizable.
func (s *Store) GetCurrentResourceVersion(ctx context.Context) (uint64, error) {
	_, rev, err := s.getRecord(ctx, s.prefix, raftstore.ReadOptions{})
	if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return 0, s.readError(err, 0, rev)
	}
	return rev, nil
}

// EnableResourceSizeEstimation implements storage.Interface. Sizes are not estimated.
func (s *Store) EnableResourceSizeEstimation(storage.KeysFunc) error { return nil }

// CompactRevision implements storage.Interface. This package does not track compaction.
func (s *Store) CompactRevision() int64 { return 0 }

// getRecord reads a record and waits up to Patience for a leader.
func (s *Store) getRecord(ctx context.Context, key string, ro raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	return s.backend.Get(ctx, key, ro)
}

// listRecords reads records and waits up to Patience for a leader.
func (s *Store) listRecords(ctx context.Context, req raftstore.ListRequest) (raftstore.ListResult, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	return s.backend.List(ctx, req)
}

// scanRecords begins to read records and waits up to Patience for a leader.
func (s *Store) scanRecords(ctx context.Context, prefix string, ro raftstore.ReadOptions) (iter.Seq[raftstore.Record], uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	return s.backend.Scan(ctx, prefix, ro)
}

// readOptions converts the resourceVersion of a request to read options.
func (s *Store) readOptions(resourceVersion string) (raftstore.ReadOptions, error) {
	if resourceVersion == "" {
		return raftstore.ReadOptions{}, nil
	}
	rev, err := s.versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return raftstore.ReadOptions{}, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	return raftstore.ReadOptions{Consistency: raftstore.Local, MinRevision: rev}, nil
}

func (s *Store) decodeObject(data []byte, out runtime.Object, rev uint64) error {
	if _, err := conversion.EnforcePtr(out); err != nil {
		return fmt.Errorf("decode into %T: %w", out, err)
	}
	if _, _, err := s.codec.Decode(data, nil, out); err != nil {
		return err
	}
	return s.versioner.UpdateObject(out, rev)
}

// putRecord writes data at key if the record's revision is still want.
func (s *Store) putRecord(ctx context.Context, key string, data []byte, want uint64) (uint64, error) {
	return s.commitTxn(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: key, ModRevision: want}},
		Ops: []raftstore.Op{{Key: key, Value: data}},
	})
}

// deleteRecord deletes key if the record's revision is still want.
func (s *Store) deleteRecord(ctx context.Context, key string, want uint64) (uint64, error) {
	return s.commitTxn(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: key, ModRevision: want}},
		Ops: []raftstore.Op{{Key: key, Delete: true}},
	})
}

const (
	firstRetry = 20 * time.Millisecond
	lastRetry  = time.Second
)

// commitTxn commits a transaction of one operation and returns its revision. It is
// repeated while no leader answers. The store itself repeats attempts whose outcome it
// does not know; what it gives up is not repeated here. The store may have forgotten the
// request by then and would carry it out a second time, and a create would answer that
// the object exists already.
func (s *Store) commitTxn(ctx context.Context, txn raftstore.Txn) (uint64, error) {
	txn.RequestID = string(uuid.NewUUID())
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		res, err := s.backend.Commit(ctx, txn)
		if err == nil {
			return res.OpRevisions[0], nil
		}
		if errors.Is(err, raftstore.ErrUnknownOutcome) || !errors.Is(err, raftstore.ErrNoLeader) {
			return 0, writeError(s.resource, txn.Ops[0].Key, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, writeError(s.resource, txn.Ops[0].Key, err)
		}
	}
}

// newLike returns an empty object of the type v points at.
func newLike(v reflect.Value) runtime.Object {
	if u, ok := v.Addr().Interface().(runtime.Unstructured); ok {
		return u.NewEmptyInstance()
	}
	return reflect.New(v.Type()).Interface().(runtime.Object)
}

// nameOf returns the last part of key.
func nameOf(key string) string { return key[strings.LastIndexByte(key, '/')+1:] }
