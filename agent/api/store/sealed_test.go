package store_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apistorage "k8s.io/apiserver/pkg/storage"

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
