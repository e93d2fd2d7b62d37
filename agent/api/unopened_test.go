package api_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"virtmesh/agent/kinds"
	"virtmesh/raftstore"
)

// A Secret that no key of the mesh opens can be deleted, and then lists work again.
func TestASecretThatNobodyOpensIsDeleted(t *testing.T) {
	h := start(t)
	lost := `{"sealed":{"key":"gone","wrapped":"","content":""},"kind":"Secret","apiVersion":"v1","metadata":{"name":"lost","namespace":"default","uid":"u1","finalizers":["example.com/held"]}}`
	at := kinds.For[*corev1.Secret]().StoreKey(kinds.Key{Namespace: "default", Name: "lost"})
	if _, err := h.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: at, Value: []byte(lost)}}}); err != nil {
		t.Fatal(err)
	}
	secrets := h.admin(t).CoreV1().Secrets("default")
	if _, err := secrets.List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("a list hides that a Secret cannot be read")
	}
	other := types.UID("u2")
	if err := secrets.Delete(t.Context(), "lost", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}}); !apierrors.IsConflict(err) {
		t.Errorf("delete with another UID: %v", err)
	}
	if err := secrets.Delete(t.Context(), "lost", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("delete for show: %v", err)
	}
	if _, _, err := h.store.Get(t.Context(), at, raftstore.ReadOptions{}); err != nil {
		t.Errorf("what was not to be deleted: %v", err)
	}
	if err := secrets.Delete(t.Context(), "lost", metav1.DeleteOptions{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if list, err := secrets.List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) > 0 {
		t.Errorf("afterwards: %d Secrets, %v", len(list.Items), err)
	}
	if err := secrets.Delete(t.Context(), "lost", metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("delete it again: %v", err)
	}
}
