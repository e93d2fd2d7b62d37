package api_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// Clients at once get as many objects as the quota allows, and the others Kubernetes' refusal. A
// dry run is refused as well, and takes nothing.
func TestQuotaOverTheAPI(t *testing.T) {
	h := start(t, func(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() })
	client, ctx := h.admin(t).CoreV1(), t.Context()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "few"}}
	quota.Spec.Hard = corev1.ResourceList{"count/configmaps": resource.MustParse("3")}
	if _, err := client.ResourceQuotas("default").Create(ctx, quota, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	newMap := func(name string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
	}
	maps := client.ConfigMaps("default")
	if _, err := maps.Create(ctx, newMap("early"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "status unknown for quota: few, resources: count/configmaps") {
		t.Errorf("before anyone has counted: %v", err)
	}
	h.countQuota(t, "default")

	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	for i := range 5 {
		if _, err := maps.Create(ctx, newMap(fmt.Sprint("dry", i)), dry); err != nil {
			t.Errorf("a dry run takes a place: %v", err)
		}
	}
	var wg sync.WaitGroup
	refusals := make(chan error, 12)
	for i := range 12 {
		wg.Go(func() {
			if _, err := maps.Create(ctx, newMap(fmt.Sprint("a", i)), metav1.CreateOptions{}); err != nil {
				refusals <- err
			}
		})
	}
	wg.Wait()
	close(refusals)
	n := 0
	for err := range refusals {
		n++
		if want := "is forbidden: exceeded quota: few, requested: count/configmaps=1, used: count/configmaps=3, limited: count/configmaps=3"; !apierrors.IsForbidden(err) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("refused with %v", err)
		}
	}
	list, err := maps.List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 3 || n != 9 {
		t.Fatalf("%d are there, %d were refused: %v", len(list.Items), n, err)
	}
	if _, err := maps.Create(ctx, newMap("dry"), dry); !apierrors.IsForbidden(err) {
		t.Errorf("the dry run of one too many: %v", err)
	}
	changed := list.Items[0].DeepCopy()
	changed.Data = map[string]string{"a": "b"}
	if _, err := maps.Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		t.Errorf("an update of what is there: %v", err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Create(ctx, newMap("late"), metav1.CreateOptions{}); err != nil {
		t.Errorf("after all were deleted: %v", err)
	}
}

// countQuota says, as the steward of quotas does, that a namespace is counted.
func (h *host) countQuota(t *testing.T, namespace string) {
	t.Helper()
	rec, _, err := h.store.Get(t.Context(), usage.Key(namespace), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	record, err := usage.Decode(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	record.Counts = 1
	var tx objects.Tx
	objects.PutValue(&tx, rec.Key, record)
	if _, err := tx.Commit(t.Context(), objects.FromRaft(h.store, nil)); err != nil {
		t.Fatal(err)
	}
}
