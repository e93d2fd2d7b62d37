package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"

	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// resultBuffer is how many decoded events a watch may be ahead of its connection.
const resultBuffer = 100

// Watch implements storage.Interface. If the stored history no longer reaches back to
// the watch's resourceVersion, the watch fails with "resource version too old", and the
// client lists again.
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
	err = w.begin(ctx, rev)
	if err != nil && ctx.Err() == nil {
		return nil, err
	}
	ctx, w.cancel = context.WithCancel(ctx)
	if err != nil { // the client has gone; the library takes a watch that ends
		w.Stop()
		close(w.result)
		return w, nil
	}
	go w.run(ctx)
	utilflowcontrol.WatchInitialized(ctx)
	return w, nil
}

// begin chooses the revision after which events are sent, and the state to send before them. It
// does so before the client is answered, so that the client is told of every change that
// it makes after the answer.
func (w *watcher) begin(ctx context.Context, rev uint64) (err error) {
	switch {
	case w.initial:
		ro, err := w.store.readOptions(w.opts.ResourceVersion)
		if err != nil {
			return err
		}
		if w.records, w.from, err = w.store.scanRecords(ctx, w.key, ro); err != nil {
			return w.store.readError(err, ro.MinRevision, w.store.backend.Revision())
		}
	case rev == 0:
		w.from, err = w.store.GetCurrentResourceVersion(ctx)
	default:
		w.from = rev
	}
	return err
}

// watcher converts the store's events below one key to watch events.
type watcher struct {
	store     *Store
	key       string
	opts      storage.ListOptions
	from      uint64
	initial   bool
	records   iter.Seq[raftstore.Record] // the initial state, if it is wanted
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
	if err := w.followEvents(ctx); err != nil && ctx.Err() == nil {
		w.sendEvent(ctx, watch.Event{Type: watch.Error, Object: statusOf(err)})
	}
}

// followEvents sends the initial state, if requested, and then events until ctx ends,
// the client is too slow, or an error occurs.
func (w *watcher) followEvents(ctx context.Context) error {
	if w.initial {
		if err := w.sendInitial(ctx); err != nil {
			return err
		}
	}
	req := raftstore.WatchRequest{Prefix: w.key, Revision: w.from, Compact: true}
	if w.bookmarks {
		req.Bookmarks = w.store.bookmarks
	}
	src, err := w.store.backend.Watch(ctx, req)
	if err != nil {
		return err
	}
	defer src.Stop()
	for e := range src.Events() {
		ev, ok, err := w.convertEvent(e)
		if err != nil {
			return err
		}
		if ok && !w.sendEvent(ctx, ev) {
			return nil
		}
	}
	// Only report an end that makes the client start again; after any other end the
	// client resumes where it was.
	if err := src.Err(); errors.Is(err, raftstore.ErrCompacted) || errors.Is(err, raftstore.ErrSlowWatcher) {
		return raftstore.ErrCompacted
	}
	return nil
}

// sendInitial sends the existing objects as ADDED events, and a bookmark at their end
// if the client requested one. They are read as the client takes them, so that a slow
// client of many objects costs little memory.
func (w *watcher) sendInitial(ctx context.Context) error {
	for rec := range w.records {
		ev, ok, err := w.convertEvent(raftstore.Event{Type: raftstore.Put, Record: rec})
		if err != nil {
			return err
		}
		if ok && !w.sendEvent(ctx, ev) {
			return nil
		}
	}
	if w.opts.SendInitialEvents == nil || !w.opts.Predicate.AllowWatchBookmarks {
		return nil
	}
	obj, err := w.bookmarkAt(w.from)
	if err != nil {
		return err
	}
	if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
		return err
	}
	w.sendEvent(ctx, watch.Event{Type: watch.Bookmark, Object: obj})
	return nil
}

// sendEvent sends ev and reports whether the watch continues.
func (w *watcher) sendEvent(ctx context.Context, ev watch.Event) bool {
	select {
	case w.result <- ev:
		return true
	case <-ctx.Done():
		return false
	}
}

// convertEvent converts a store event to a watch event; ok is false if it concerns no
// object that the client's selector matches.
func (w *watcher) convertEvent(e raftstore.Event) (ev watch.Event, ok bool, err error) {
	if e.Type == raftstore.Bookmark {
		obj, err := w.bookmarkAt(e.Revision)
		return watch.Event{Type: watch.Bookmark, Object: obj}, w.bookmarks, err
	}
	if !w.opts.Recursive && e.Record.Key != w.key {
		return ev, false, nil
	}
	if e.Type == raftstore.Delete {
		// Send the last state of the object, with the revision of its deletion.
		obj, err := w.selectFormer(e.Prev, e.Revision)
		return watch.Event{Type: watch.Deleted, Object: obj}, obj != nil, err
	}
	cur, err := w.selectObject(&e.Record, e.Record.ModRevision)
	if err != nil {
		return ev, false, err
	}
	switch known := e.Prev != nil; {
	case known && !w.opts.Predicate.Empty():
		return w.transitionEvent(e, cur)
	case cur == nil:
		return ev, false, nil
	case known:
		return watch.Event{Type: watch.Modified, Object: cur}, true, nil
	}
	return watch.Event{Type: watch.Added, Object: cur}, true, nil
}

// transitionEvent returns the event of an update for a client with a selector: an
// object that begins to match is ADDED, one that no longer matches is DELETED.
func (w *watcher) transitionEvent(e raftstore.Event, cur runtime.Object) (watch.Event, bool, error) {
	old, err := w.selectFormer(e.Prev, e.Record.ModRevision)
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

// selectFormer is selectObject for the state of an object from before its deletion or change. Of
// one that no key of the mesh opened it is what can be read.
func (w *watcher) selectFormer(rec *raftstore.Record, rev uint64) (runtime.Object, error) {
	if rec == nil || !w.store.sealable() || !sealed.IsSealed(rec.Expand().Value) {
		return w.selectObject(rec, rev)
	}
	former := rec.Expand()
	former.ModRevision = rev
	obj := w.store.newFunc()
	if err := w.store.decodeReadable(former, obj); err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if ok, err := w.opts.Predicate.Matches(obj); err != nil || !ok {
		return nil, nil //nolint:nilerr // an object that cannot be matched is not selected
	}
	return obj, nil
}

// selectObject returns the object of rec at rev. It returns nil if the selector does not match.
func (w *watcher) selectObject(rec *raftstore.Record, rev uint64) (runtime.Object, error) {
	if rec == nil {
		return nil, nil
	}
	if w.store.sealable() && sealed.IsSealed(rec.Expand().Value) {
		return nil, fmt.Errorf("watch %s: %w", rec.Key, errUnopened(*rec))
	}
	stored := &Undecoded{store: w.store, rec: *rec}
	stored.rec.ModRevision = rev
	if w.store.form != nil {
		ok, err := matchUndecoded(&w.opts.Predicate, stored)
		if err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
		if !ok {
			return nil, nil
		}
		return stored, nil
	}
	obj, err := stored.decode()
	if err != nil {
		return nil, fmt.Errorf("watch: %w", err)
	}
	if w.opts.Predicate.Empty() {
		return obj, nil
	}
	if ok, err := w.opts.Predicate.Matches(obj); err != nil || !ok {
		return nil, nil //nolint:nilerr // an object that cannot be matched is not selected
	}
	return obj, nil
}

func (w *watcher) bookmarkAt(rev uint64) (runtime.Object, error) {
	obj := w.store.newFunc()
	return obj, w.store.versioner.UpdateObject(obj, rev)
}

// statusOf returns the object of the ERROR event that ends a watch.
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
