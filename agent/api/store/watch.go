package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"virtmesh/raftstore"
)

// resultBuffer lets the decoding of a watch run ahead of its connection.
const resultBuffer = 100

// Watch implements storage.Interface. A watcher that fell behind the history kept
// is told that its resourceVersion is too old, and its client lists again.
func (s *Store) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := storage.PrepareKey(s.prefix+"/", key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	rev, err := s.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	w := &watcher{store: s, key: key, opts: opts, result: make(chan watch.Event, resultBuffer)}
	w.initial = opts.SendInitialEvents != nil && *opts.SendInitialEvents || opts.SendInitialEvents == nil && rev == 0
	w.bookmarks = opts.Predicate.AllowWatchBookmarks || opts.ProgressNotify
	w.from = rev
	if !w.initial && rev == 0 {
		if w.from, err = s.GetCurrentResourceVersion(ctx); err != nil {
			return nil, err
		}
	}
	ctx, w.cancel = context.WithCancel(ctx)
	go w.run(ctx)
	utilflowcontrol.WatchInitialized(ctx)
	return w, nil
}

// watcher turns the store's events under one key into watch events.
type watcher struct {
	store     *Store
	key       string
	opts      storage.ListOptions
	from      uint64
	initial   bool
	bookmarks bool
	cancel    context.CancelFunc
	stop      sync.Once
	result    chan watch.Event
}

var _ watch.Interface = (*watcher)(nil)

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.stop.Do(w.cancel) }

func (w *watcher) run(ctx context.Context) {
	defer close(w.result)
	defer w.Stop()
	if err := w.follow(ctx); err != nil && ctx.Err() == nil {
		w.send(ctx, watch.Event{Type: watch.Error, Object: statusOf(err)})
	}
}

// follow delivers the initial state, if wanted, and then events until ctx ends,
// the client is too slow, or an error occurs.
func (w *watcher) follow(ctx context.Context) error {
	if w.initial {
		if err := w.sendInitial(ctx); err != nil {
			return err
		}
	}
	req := raftstore.WatchRequest{Prefix: w.key, Revision: w.from}
	if w.bookmarks {
		req.Bookmarks = w.store.bookmarks
	}
	src, err := w.store.backend.Watch(ctx, req)
	if err != nil {
		return err
	}
	defer src.Stop()
	for e := range src.Events() {
		ev, ok, err := w.convert(e)
		if err != nil {
			return err
		}
		if ok && !w.send(ctx, ev) {
			return nil
		}
	}
	// Only an end that makes the client start over is told; after any other it
	// resumes where it was.
	if err := src.Err(); errors.Is(err, raftstore.ErrCompacted) || errors.Is(err, raftstore.ErrSlowWatcher) {
		return raftstore.ErrCompacted
	}
	return nil
}

// sendInitial delivers what exists as ADDED events, and a mark of their end if
// the client asked for one.
func (w *watcher) sendInitial(ctx context.Context) error {
	req := raftstore.ListRequest{Prefix: w.key}
	ro, err := w.store.readOptions(w.opts.ResourceVersion)
	if err != nil {
		return err
	}
	req.ReadOptions = ro
	res, err := w.store.list(ctx, req)
	if err != nil {
		return readError(err, ro.MinRevision, w.store.backend.Revision())
	}
	w.from = res.Revision
	for i := range res.Records {
		ev, ok, err := w.convert(raftstore.Event{Type: raftstore.Put, Record: res.Records[i]})
		if err != nil {
			return err
		}
		if ok && !w.send(ctx, ev) {
			return nil
		}
	}
	if w.opts.SendInitialEvents == nil || !w.opts.Predicate.AllowWatchBookmarks {
		return nil
	}
	obj, err := w.bookmark(res.Revision)
	if err != nil {
		return err
	}
	if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
		return err
	}
	w.send(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
	return nil
}

// send delivers ev and says whether the watch goes on.
func (w *watcher) send(ctx context.Context, ev watch.Event) bool {
	select {
	case w.result <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// convert makes the watch event of a store event; ok is false when the client's
// selector sees nothing of it.
func (w *watcher) convert(e raftstore.Event) (ev watch.Event, ok bool, err error) {
	if e.Type == raftstore.Bookmark {
		obj, err := w.bookmark(e.Revision)
		return watch.Event{Type: watch.Bookmark, Object: obj}, w.bookmarks, err
	}
	if !w.opts.Recursive && e.Record.Key != w.key {
		return ev, false, nil
	}
	if e.Type == raftstore.Delete {
		// The last state of the object, at the revision of its deletion.
		obj, err := w.selected(e.Prev, e.Revision)
		return watch.Event{Type: watch.Deleted, Object: obj}, obj != nil, err
	}
	cur, err := w.selected(&e.Record, e.Record.ModRevision)
	if err != nil {
		return ev, false, err
	}
	switch known := e.Prev != nil; {
	case known && !w.opts.Predicate.Empty():
		return w.transition(e, cur)
	case cur == nil:
		return ev, false, nil
	case known:
		return watch.Event{Type: watch.Modified, Object: cur}, true, nil
	}
	return watch.Event{Type: watch.Added, Object: cur}, true, nil
}

// transition makes the event of an update for a client that selects: entering
// the selection is ADDED, leaving it is DELETED.
func (w *watcher) transition(e raftstore.Event, cur runtime.Object) (watch.Event, bool, error) {
	old, err := w.selected(e.Prev, e.Record.ModRevision)
	switch {
	case err != nil:
		return watch.Event{}, false, err
	case cur != nil && old != nil:
		return watch.Event{Type: watch.Modified, Object: cur}, true, nil
	case cur != nil:
		return watch.Event{Type: watch.Added, Object: cur}, true, nil
	case old != nil:
		return watch.Event{Type: watch.Deleted, Object: old}, true, nil
	}
	return watch.Event{}, false, nil
}

// selected decodes rec at rev, or returns nil when it is not selected.
func (w *watcher) selected(rec *raftstore.Record, rev uint64) (runtime.Object, error) {
	if rec == nil {
		return nil, nil
	}
	obj := w.store.newFunc()
	if err := w.store.decode(rec.Value, obj, rev); err != nil {
		return nil, fmt.Errorf("watch %s: %w", rec.Key, err)
	}
	if w.opts.Predicate.Empty() {
		return obj, nil
	}
	if ok, err := w.opts.Predicate.Matches(obj); err != nil || !ok {
		return nil, nil //nolint:nilerr // an object that cannot be matched is not selected
	}
	return obj, nil
}

func (w *watcher) bookmark(rev uint64) (runtime.Object, error) {
	obj := w.store.newFunc()
	return obj, w.store.versioner.UpdateObject(obj, rev)
}

// statusOf is the object of the ERROR event that ends a watch.
func statusOf(err error) *metav1.Status {
	if errors.Is(err, raftstore.ErrCompacted) {
		err = apierrors.NewResourceExpired(watchExpired)
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		s := status.Status()
		return &s
	}
	return &metav1.Status{
		Status:  metav1.StatusFailure,
		Message: err.Error(),
		Code:    http.StatusInternalServerError,
		Reason:  metav1.StatusReasonInternalError,
	}
}
