package store_test

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	apistorage "k8s.io/apiserver/pkg/storage"

	"virtmesh/raftstore"
)

// busy is a backend of a host that takes its time to begin a scan.
type busy struct{ *testBackend }

func (b busy) Scan(ctx context.Context, prefix string, o raftstore.ReadOptions) (iter.Seq[raftstore.Record], uint64, error) {
	time.Sleep(100 * time.Millisecond)
	return b.testBackend.Scan(ctx, prefix, o)
}

// A watch that was answered tells of every change after the answer, also of one that is undone at
// once, however busy the host is.
func TestAWatchMissesNothingAfterItsAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newMaps(t, busy{newTestBackend(t)})
		predicate := apistorage.SelectionPredicate{
			Label: labels.SelectorFromSet(labels.Set{"in": "yes"}), Field: fields.Everything(),
			GetAttrs: func(obj runtime.Object) (labels.Set, fields.Set, error) {
				return obj.(*corev1.ConfigMap).Labels, nil, nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		w, err := s.Watch(ctx, "/registry/core/configmaps/", apistorage.ListOptions{Predicate: predicate, Recursive: true})
		if err != nil {
			t.Fatal(err)
		}
		made := newMap()
		made.Labels = map[string]string{"in": "yes"}
		if err := s.Create(ctx, key, made, nil, 0); err != nil {
			t.Fatal(err)
		}
		err = s.GuaranteedUpdate(ctx, key, &corev1.ConfigMap{}, false, nil, apistorage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			obj.(*corev1.ConfigMap).Labels = nil
			return obj, nil
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []watch.EventType{watch.Added, watch.Deleted} {
			select {
			case e := <-w.ResultChan():
				if e.Type != want {
					t.Errorf("%s, want %s", e.Type, want)
				}
			case <-time.After(time.Minute):
				t.Fatalf("no event, want %s", want)
			}
		}
	})
}
