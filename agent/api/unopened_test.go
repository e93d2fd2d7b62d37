package api_test

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

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

// putLost stores a Secret that no key of the mesh opens.
func putLost(t *testing.T, h *host, name, labels string) {
	t.Helper()
	value := `{"sealed":{"key":"gone","wrapped":"","content":""},"kind":"Secret","apiVersion":"v1","metadata":{"name":"` + name + `","namespace":"default","uid":"u1","labels":{` + labels + `}},"type":"Opaque"}`
	at := kinds.For[*corev1.Secret]().StoreKey(kinds.Key{Namespace: "default", Name: name})
	if _, err := h.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: at, Value: []byte(value)}}}); err != nil {
		t.Fatal(err)
	}
}

// A watch that comes to a Secret that no key opens ends with an error that names it, as a list
// does, and sends it neither encrypted nor without its data. Of its deletion watches tell.
func TestAWatchNamesWhatNobodyOpens(t *testing.T) {
	h := start(t)
	secrets := h.admin(t).CoreV1().Secrets("default")
	before, err := secrets.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	putLost(t, h, "lost", "")
	for how, from := range map[string]string{"from before": before.ResourceVersion, "with all that is there": "0"} {
		w, err := secrets.Watch(t.Context(), metav1.ListOptions{ResourceVersion: from})
		if err != nil {
			t.Fatal(err)
		}
		ev := nextEvent(t, w)
		if ev.Type != watch.Error || !strings.Contains(apierrors.FromObject(ev.Object).Error(), "kubectl delete -n default secret lost") {
			t.Errorf("a watch %s: %s %v", how, ev.Type, ev.Object)
		}
		w.Stop()
	}
	now := strconv.FormatUint(h.store.Revision(), 10)
	if err := secrets.Delete(t.Context(), "lost", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for how, selector := range map[string]string{"of all": "", "of a name": "metadata.name=lost"} {
		w, err := secrets.Watch(t.Context(), metav1.ListOptions{ResourceVersion: now, FieldSelector: selector})
		if err != nil {
			t.Fatal(err)
		}
		ev := nextEvent(t, w)
		if gone, ok := ev.Object.(*corev1.Secret); ev.Type != watch.Deleted || !ok || gone.Name != "lost" || gone.UID != "u1" {
			t.Errorf("a watch %s: %s %v", how, ev.Type, ev.Object)
		}
		w.Stop()
	}
}

// The deletion of a collection deletes what no key opens, too, if its selectors match it.
func TestACollectionIsDeletedWithWhatNobodyOpens(t *testing.T) {
	h := start(t)
	secrets := h.admin(t).CoreV1().Secrets("default")
	if _, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "whole", Labels: map[string]string{"app": "x"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	putLost(t, h, "lost", `"app":"x"`)
	putLost(t, h, "other", `"app":"y"`)
	names := func() (left []string) {
		all, err := h.store.List(t.Context(), raftstore.ListRequest{Prefix: kinds.For[*corev1.Secret]().Prefix()})
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range all.Records {
			_, key, _ := kinds.ParseStoreKey(rec.Key)
			left = append(left, key.Name)
		}
		return left
	}
	for _, c := range []struct {
		opts metav1.DeleteOptions
		list metav1.ListOptions
		left []string
	}{
		{opts: metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, left: []string{"lost", "other", "whole"}},
		{list: metav1.ListOptions{FieldSelector: "type=example.com/else"}, left: []string{"lost", "other", "whole"}},
		{list: metav1.ListOptions{LabelSelector: "app=x"}, left: []string{"other"}},
		{left: nil},
	} {
		if err := secrets.DeleteCollection(t.Context(), c.opts, c.list); err != nil {
			t.Fatalf("%+v: %v", c.list, err)
		}
		if left := names(); !slices.Equal(left, c.left) {
			t.Errorf("after %+v, %+v: %q are left", c.opts, c.list, left)
		}
	}
}
