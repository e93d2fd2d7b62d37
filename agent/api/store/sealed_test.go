package store_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apistorage "k8s.io/apiserver/pkg/storage"

	"virtmesh/agent/api/store"
	"virtmesh/agent/fault"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// The API works with plain values when they are sealed in the store, and still
// finds that an update changes nothing.
func TestSealedStore(t *testing.T) {
	raft := raftstoretest.New(t)
	s := newMaps(t, objects.FromRaft(raft, &objectstest.Sealer{}))
	if err := s.Create(t.Context(), key, newMap(), &corev1.ConfigMap{}, 0); err != nil {
		t.Fatal(err)
	}
	rec, _, err := raft.Get(t.Context(), key, raftstore.ReadOptions{})
	if err != nil || !objectstest.Sealed(rec.Value, "ConfigMap") {
		t.Errorf("stored as %q (%v)", rec.Value, err)
	}
	set := func(value string) *corev1.ConfigMap {
		out := &corev1.ConfigMap{}
		err := s.GuaranteedUpdate(t.Context(), key, out, false, nil, apistorage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			obj.(*corev1.ConfigMap).Data["k"] = value
			return obj, nil
		}), nil)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := set("changed"); got.Data["k"] != "changed" {
		t.Errorf("updated to %v", got.Data)
	}
	before := raft.Revision()
	set("changed")
	if raft.Revision() != before {
		t.Error("an update without a change was written")
	}
	out := &corev1.ConfigMap{}
	noCheck := func(context.Context, runtime.Object) error { return nil }
	if err := s.Delete(t.Context(), key, out, &apistorage.Preconditions{}, noCheck, nil, apistorage.DeleteOptions{}); err != nil || out.Data["k"] != "changed" {
		t.Errorf("deleted %v (%v)", out.Data, err)
	}
}

// While those who could open what is encrypted are not reached, a client gets a 503 with what
// helps, and neither ciphertext nor an object without its data.
func TestNobodyOpensWhatIsSealed(t *testing.T) {
	raft := raftstoretest.New(t)
	var away error
	s := newMaps(t, objects.FromRaft(raft, &objectstest.Sealer{Fails: func() error { return away }}))
	if err := s.Create(t.Context(), key, newMap(), &corev1.ConfigMap{}, 0); err != nil {
		t.Fatal(err)
	}
	away = fault.New(fault.Unavailable, "no voter answers").WithRemedy("bring a voter back")
	var list corev1.ConfigMapList
	everything := apistorage.ListOptions{Recursive: true, Predicate: apistorage.Everything}
	for how, err := range map[string]error{
		"get":  s.Get(t.Context(), key, apistorage.GetOptions{}, &corev1.ConfigMap{}),
		"list": s.GetList(t.Context(), "/registry/core/configmaps/", everything, &list),
		"update": s.GuaranteedUpdate(t.Context(), key, &corev1.ConfigMap{}, false, nil, apistorage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			return obj, nil
		}), nil),
	} {
		if !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "bring a voter back") || len(list.Items) > 0 {
			t.Errorf("%s: %v, %d items", how, err, len(list.Items))
		}
	}
}

// A list with an object that no key opens fails before its first byte is written, and says
// which object it is and what helps.
func TestAListNamesWhatNobodyOpens(t *testing.T) {
	listNames(t, kinds.For[*corev1.Secret](), func() runtime.Object { return &corev1.Secret{} }, &corev1.SecretList{}, "kubectl delete -n ns secret lost")
	listNames(t, kinds.For[*corev1.ConfigMap](), func() runtime.Object { return &corev1.ConfigMap{} }, &corev1.ConfigMapList{}, "kubectl delete -n ns configmap lost")
}

// listNames lists a kind one of whose objects no key opens, and looks whether the error has words.
func listNames(t *testing.T, kind *kinds.Kind, object func() runtime.Object, list runtime.Object, words string) {
	t.Helper()
	raft := raftstoretest.New(t)
	lost := `{"sealed":{"key":"gone","wrapped":"","content":""},"kind":"` + kind.GVK.Kind + `","apiVersion":"v1","metadata":{"name":"lost","namespace":"ns"}}`
	at := kind.StoreKey(kinds.Key{Namespace: "ns", Name: "lost"})
	if _, err := raft.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: at, Value: []byte(lost)}}}); err != nil {
		t.Fatal(err)
	}
	s := store.New(store.Config{
		Backend: objects.FromRaft(raft, &objectstest.Sealer{}), Codec: store.NewCodec(kind),
		Resource: schema.GroupResource{Resource: kind.Resource}, Prefix: strings.TrimSuffix(kind.Prefix(), "/"),
		New: object, Turns: store.NewTurns(1 << 20),
	})
	undecoded := s.Undecoded()
	everything := apistorage.ListOptions{Recursive: true, Predicate: apistorage.Everything}
	for how, err := range map[string]error{
		"decoded":   s.GetList(t.Context(), kind.Prefix(), everything, list),
		"undecoded": undecoded.GetList(t.Context(), kind.Prefix(), everything, undecoded.NewUndecodedList()),
	} {
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", how, err)
		}
	}
}
