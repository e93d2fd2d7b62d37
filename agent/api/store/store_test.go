package store_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apistorage "k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/api/store"
	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

// faulty is a backend whose commits fail as told before they succeed.
type faulty struct {
	*testBackend
	fail     []error
	requests []string
	apply    bool // commit before failing
}

func (f *faulty) Commit(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	f.requests = append(f.requests, txn.RequestID)
	if len(f.fail) == 0 {
		return f.testBackend.Commit(ctx, txn)
	}
	err := f.fail[0]
	f.fail = f.fail[1:]
	if f.apply {
		if _, err := f.testBackend.Commit(ctx, txn); err != nil {
			return raftstore.TxnResult{}, err
		}
	}
	return raftstore.TxnResult{}, err
}

func newMaps(t *testing.T, b store.Backend) *store.Store {
	t.Helper()
	return store.New(store.Config{
		Backend:  b,
		Codec:    store.NewCodec(kinds.For[*corev1.ConfigMap]()),
		Resource: schema.GroupResource{Resource: "configmaps"},
		Prefix:   "/registry/core/configmaps",
		New:      func() runtime.Object { return &corev1.ConfigMap{} },
		Patience: 300 * time.Millisecond,
	})
}

const key = "/registry/core/configmaps/default/a"

func newMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"}, Data: map[string]string{"k": "<v>"}}
}

// Stored bytes are the JSON of the versioned object, and nothing of the store.
func TestEncoding(t *testing.T) {
	b := newTestBackend(t)
	s := newMaps(t, b)
	out := &corev1.ConfigMap{}
	if err := s.Create(t.Context(), key, newMap(), out, 0); err != nil {
		t.Fatal(err)
	}
	rec, _, err := b.Get(t.Context(), key, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stored := string(rec.Value)
	if !strings.Contains(stored, `"apiVersion":"v1"`) || !strings.Contains(stored, `"kind":"ConfigMap"`) || strings.Contains(stored, "resourceVersion") {
		t.Errorf("stored %s", stored)
	}
	if out.ResourceVersion == "" || out.Kind != "" {
		t.Errorf("read back kind %q at %q, want no kind and the revision", out.Kind, out.ResourceVersion)
	}
}

// A write is repeated under its request ID while there is no leader, so it happens once
// and is reported as what it was.
func TestWriteWaitsForALeader(t *testing.T) {
	f := &faulty{testBackend: newTestBackend(t), fail: []error{raftstore.ErrNoLeader, raftstore.ErrNoLeader}, apply: true}
	s := newMaps(t, f)
	if err := s.Create(t.Context(), key, newMap(), nil, 0); err != nil {
		t.Fatal(err)
	}
	if len(f.requests) != 3 || f.requests[0] == "" || f.requests[0] != f.requests[1] || f.requests[1] != f.requests[2] {
		t.Errorf("request ids %v, want one of three times", f.requests)
	}
}

// An outcome that the store gave up on is told as unknown, and the write is not repeated:
// the store may have forgotten the request, and would carry it out a second time.
func TestUnknownOutcomeIsTold(t *testing.T) {
	f := &faulty{testBackend: newTestBackend(t), fail: []error{raftstore.ErrNoLeader, raftstore.ErrUnknownOutcome}, apply: true}
	err := newMaps(t, f).Create(t.Context(), key, newMap(), nil, 0)
	if seconds, ok := apierrors.SuggestsClientDelay(err); fault.CodeOf(err) != fault.UnknownOutcome || ok && seconds > 0 {
		t.Errorf("got %v, and come back in %d s", err, seconds)
	}
	if len(f.requests) != 2 {
		t.Errorf("sent %d times", len(f.requests))
	}
}

func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		err   error
		is    func(error) bool
		retry bool
	}{
		{raftstore.ErrNoLeader, apierrors.IsServiceUnavailable, true},
		{raftstore.ErrUnknownOutcome, apierrors.IsTimeout, false},
		{raftstore.ErrClosed, apierrors.IsServiceUnavailable, true},
		{raftstore.ErrTooLarge, apierrors.IsRequestEntityTooLargeError, false},
		{&raftstore.ConstraintError{Name: "mac", Reason: "taken"}, apierrors.IsConflict, false},
	} {
		f := &faulty{testBackend: newTestBackend(t)}
		for range 100 {
			f.fail = append(f.fail, c.err)
		}
		err := newMaps(t, f).Create(t.Context(), key, newMap(), nil, 0)
		if !c.is(err) {
			t.Errorf("%v becomes %v", c.err, err)
		}
		if got, want := fault.CodeOf(err), fault.CodeOf(c.err); got != want {
			t.Errorf("%v is %s here, and %s to a host that reads the answer", c.err, want, got)
		}
		if text := err.Error(); strings.Contains(text, "raftstore:") || !strings.Contains(text, fault.Of(c.err).Sentence) {
			t.Errorf("%v is told as %q", c.err, text)
		}
		if seconds, ok := apierrors.SuggestsClientDelay(err); ok && seconds > 0 != c.retry {
			t.Errorf("%v asks the client to come back in %d s, want %v", c.err, seconds, c.retry)
		}
	}
}

// An update that changes nothing writes nothing, whoever wrote the object.
func TestNoChangeNoWrite(t *testing.T) {
	b := newTestBackend(t)
	s := newMaps(t, b)
	if err := s.Create(t.Context(), key, newMap(), nil, 0); err != nil {
		t.Fatal(err)
	}
	before := b.Revision()
	same := func(obj runtime.Object, _ apistorage.ResponseMeta) (runtime.Object, *uint64, error) {
		return obj, nil, nil
	}
	if err := s.GuaranteedUpdate(t.Context(), key, &corev1.ConfigMap{}, false, nil, same, nil); err != nil {
		t.Fatal(err)
	}
	if b.Revision() != before {
		t.Error("an update without a change was written")
	}
}

// An error that the caller's function makes of a stale object is not reported,
// but tried again on what is current.
func TestStaleErrorsAreNotReported(t *testing.T) {
	b := newTestBackend(t)
	s := newMaps(t, b)
	stale := &corev1.ConfigMap{}
	if err := s.Create(t.Context(), key, newMap(), stale, 0); err != nil {
		t.Fatal(err)
	}
	set := func(obj runtime.Object, _ apistorage.ResponseMeta) (runtime.Object, *uint64, error) {
		obj.(*corev1.ConfigMap).Data = map[string]string{"k": "new"}
		return obj, nil, nil
	}
	if err := s.GuaranteedUpdate(t.Context(), key, &corev1.ConfigMap{}, false, nil, set, nil); err != nil {
		t.Fatal(err)
	}
	wantNew := func(obj runtime.Object, _ apistorage.ResponseMeta) (runtime.Object, *uint64, error) {
		if obj.(*corev1.ConfigMap).Data["k"] != "new" {
			return nil, nil, errors.New("old")
		}
		return obj, nil, nil
	}
	if err := s.GuaranteedUpdate(t.Context(), key, &corev1.ConfigMap{}, false, nil, wantNew, stale); err != nil {
		t.Errorf("an error of a stale object is reported: %v", err)
	}
}
