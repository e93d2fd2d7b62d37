package store_test

import (
	"context"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/api/store"
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// between does something once, after a creation was checked and before it is committed.
type between struct {
	*testBackend
	once sync.Once
	do   func()
}

func (b *between) Commit(ctx context.Context, txn raftstore.Txn) (raftstore.TxnResult, error) {
	b.once.Do(b.do)
	return b.testBackend.Commit(ctx, txn)
}

// An object that is created while its Namespace goes would never go itself.
func TestNothingIsCreatedInANamespaceThatGoes(t *testing.T) {
	for name, c := range map[string]struct {
		change func(ns *corev1.Namespace) *corev1.Namespace
		is     func(error) bool
	}{
		"nothing happens": {func(ns *corev1.Namespace) *corev1.Namespace { return ns }, func(err error) bool { return err == nil }},
		"a label is set": {func(ns *corev1.Namespace) *corev1.Namespace {
			ns.Labels = map[string]string{"a": "b"}
			return ns
		}, func(err error) bool { return err == nil }},
		"the deletion begins": {func(ns *corev1.Namespace) *corev1.Namespace {
			ns.Status.Phase = corev1.NamespaceTerminating
			return ns
		}, func(err error) bool {
			return apierrors.IsForbidden(err) && apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
		}},
		"it is gone": {func(*corev1.Namespace) *corev1.Namespace { return nil }, apierrors.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			b := newTestBackend(t)
			home := kinds.For[*corev1.Namespace]().StoreKey(kinds.Key{Name: "default"})
			put := func(ns *corev1.Namespace) {
				t.Helper()
				op := raftstore.Op{Key: home, Delete: ns == nil}
				if ns != nil {
					value, err := objects.Encode(ns)
					if err != nil {
						t.Fatal(err)
					}
					op.Value = value
				}
				if _, err := b.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{op}}); err != nil {
					t.Fatal(err)
				}
			}
			ns := &corev1.Namespace{}
			ns.Name = "default"
			put(ns)
			s := store.New(store.Config{
				Backend: &between{testBackend: b, do: func() { put(c.change(ns)) }}, Codec: store.NewCodec(kinds.For[*corev1.ConfigMap]()),
				Resource: schema.GroupResource{Resource: "configmaps"}, Prefix: "/registry/core/configmaps", InNamespaces: true,
				New: func() runtime.Object { return &corev1.ConfigMap{} },
			})
			err := s.Create(t.Context(), key, newMap(), nil, 0)
			if !c.is(err) {
				t.Error(err)
			}
			if _, _, there := b.Get(t.Context(), key, raftstore.ReadOptions{}); (there == nil) != (err == nil) {
				t.Errorf("created: %v, and reading it: %v", err, there)
			}
			if err := s.Create(t.Context(), key, newMap(), nil, 0); err == nil {
				t.Error("it is created twice")
			}
		})
	}
}
