package store_test

import (
	"context"
	"testing"
	"time"

	apitesting "k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	apistorage "k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"

	"virtmesh/agent/api/store"
	"virtmesh/raftstore"
)

// suite is the API server library's own conformance suite for storage, which
// also its etcd storage passes.
type suite struct {
	backend *testBackend
	store   *store.Store
	codec   runtime.Codec
}

func newSuite(t *testing.T, bookmarks time.Duration) (context.Context, *suite) {
	t.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	s := &suite{
		backend: newTestBackend(t),
		codec:   apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion),
	}
	s.store = store.New(store.Config{
		Backend:          s.backend,
		Codec:            s.codec,
		Resource:         schema.GroupResource{Resource: "pods"},
		Prefix:           "/pods",
		New:              func() runtime.Object { return &example.Pod{} },
		BookmarkInterval: bookmarks,
	})
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, s
}

// checkStored fails unless the stored object has no resourceVersion.
func (s *suite) checkStored(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	rec, _, err := s.backend.Get(ctx, key, raftstore.ReadOptions{})
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	obj, err := runtime.Decode(s.codec, rec.Value)
	if err != nil {
		t.Fatalf("decode %s: %v", key, err)
	}
	if rv := obj.(*example.Pod).ResourceVersion; rv != "" {
		t.Errorf("%s is stored with resourceVersion %q, want none", key, rv)
	}
}

func (s *suite) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rev, err := s.store.Versioner().ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	s.backend.compact(rev)
	s.increase(ctx, t) // as a compaction of etcd does, and the suite counts on it
}

func (s *suite) increase(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	res, err := s.backend.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{{Key: "/other", Value: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	return int64(res.Revision)
}

func TestConformance(t *testing.T) {
	tests := map[string]func(context.Context, *testing.T, *suite){
		"Create": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestCreate(ctx, t, s.store, s.checkStored)
		},
		"List": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestList(ctx, t, s.store, s.compact, false, nil)
		},
		"ConsistentList": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestConsistentList(ctx, t, s.store, s.increase, false, true, false)
		},
		"GetListNonRecursive": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestGetListNonRecursive(ctx, t, s.increase, s.store)
		},
		"ListInconsistentContinuation": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListInconsistentContinuation(ctx, t, s.store, s.compact)
		},
		"WatchFromZero": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestWatchFromZero(ctx, t, s.store, s.compact)
		},
		"ListContinuation": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListContinuation(ctx, t, s.store, s.anyCalls)
		},
		"ListContinuationWithFilter": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListContinuationWithFilter(ctx, t, s.store, s.anyCalls)
		},
		"ListPaginationRareObject": func(ctx context.Context, t *testing.T, s *suite) {
			storagetesting.RunTestListPaginationRareObject(ctx, t, s.store, s.anyCalls)
		},
	}
	for name, run := range plainTests {
		tests[name] = func(ctx context.Context, t *testing.T, s *suite) { run(ctx, t, s.store) }
	}
	for name, run := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, s := newSuite(t, 0)
			run(ctx, t, s)
		})
	}
}

// anyCalls accepts any number of reads: they are calls of our own process.
func (s *suite) anyCalls(*testing.T, uint64, uint64) {}

// plainTests are the parts of the suite that need the store and nothing else.
var plainTests = map[string]func(context.Context, *testing.T, apistorage.Interface){
	"CreateWithKeyExist":                  storagetesting.RunTestCreateWithKeyExist,
	"Get":                                 storagetesting.RunTestGet,
	"UnconditionalDelete":                 storagetesting.RunTestUnconditionalDelete,
	"ConditionalDelete":                   storagetesting.RunTestConditionalDelete,
	"DeleteWithSuggestion":                storagetesting.RunTestDeleteWithSuggestion,
	"DeleteWithSuggestionAndConflict":     storagetesting.RunTestDeleteWithSuggestionAndConflict,
	"DeleteWithConflict":                  storagetesting.RunTestDeleteWithConflict,
	"DeleteWithSuggestionOfDeletedObject": storagetesting.RunTestDeleteWithSuggestionOfDeletedObject,
	"ValidateDeletionWithSuggestion":      storagetesting.RunTestValidateDeletionWithSuggestion,
	"ValidateDeletionWithOnlySuggestion":  storagetesting.RunTestValidateDeletionWithOnlySuggestionValid,
	"PreconditionalDeleteWithSuggestion":  storagetesting.RunTestPreconditionalDeleteWithSuggestion,
	"PreconditionalDeleteOnlySuggestion":  storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass,
	"GetListRecursivePrefix":              storagetesting.RunTestGetListRecursivePrefix,
	"ListPaging":                          storagetesting.RunTestListPaging,
	"NamespaceScopedList":                 storagetesting.RunTestNamespaceScopedList,
	"KeySchema":                           storagetesting.RunTestKeySchema,
	"GuaranteedUpdateWithConflict":        storagetesting.RunTestGuaranteedUpdateWithConflict,
	"GuaranteedUpdateSuggestionConflict":  storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict,
	"Watch":                               storagetesting.RunTestWatch,
	"ClusterScopedWatch":                  storagetesting.RunTestClusterScopedWatch,
	"NamespaceScopedWatch":                storagetesting.RunTestNamespaceScopedWatch,
	"DeleteTriggerWatch":                  storagetesting.RunTestDeleteTriggerWatch,
	"WatchFromNonZero":                    storagetesting.RunTestWatchFromNonZero,
	"DelayedWatchDelivery":                storagetesting.RunTestDelayedWatchDelivery,
	"WatchContextCancel":                  storagetesting.RunTestWatchContextCancel,
	"WatcherTimeout":                      storagetesting.RunTestWatcherTimeout,
	"WatchDeleteEventObjectHaveLatestRV":  storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV,
	"WatchInitializationSignal":           storagetesting.RunTestWatchInitializationSignal,
	"SendInitialEventsCompatibility":      storagetesting.RunSendInitialEventsBackwardCompatibility,
	"WatchSemantics":                      storagetesting.RunWatchSemantics,
	"WatchSemanticInitialEventsExtended":  storagetesting.RunWatchSemanticInitialEventsExtended,
	"WatchListMatchSingle":                storagetesting.RunWatchListMatchSingle,
}

func TestConformanceBookmarks(t *testing.T) {
	t.Run("ProgressNotify", func(t *testing.T) {
		ctx, s := newSuite(t, 100*time.Millisecond)
		storagetesting.RunOptionalTestProgressNotify(ctx, t, s.store, s.increase)
	})
	t.Run("DispatchBookmarkEvents", func(t *testing.T) {
		ctx, s := newSuite(t, 100*time.Millisecond)
		storagetesting.RunTestWatchDispatchBookmarkEvents(ctx, t, s.store, true)
	})
	t.Run("CorrectResourceVersion", func(t *testing.T) {
		ctx, s := newSuite(t, 100*time.Millisecond)
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, s.store)
	})
}
