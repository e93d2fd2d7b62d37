package api_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

var instancesResource = kubevirtv1.GroupVersion.WithResource("virtualmachineinstances")

// makeInstance makes an instance that a host runs.
func makeInstance(t *testing.T, h *host, name, node, spec string) *kubevirtv1.VirtualMachineInstance {
	t.Helper()
	obj := parse(t, `{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, metadata: {name: `+name+`, labels: {app: web}}, spec: {domain: {devices: {}, memory: {guest: 64Mi}}, `+spec+`}}`)
	if _, err := h.dynamic(t).Resource(instancesResource).Namespace("default").Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	store := objects.FromRaft(h.store, nil)
	stored, err := objects.Get[*kubevirtv1.VirtualMachineInstance](t.Context(), store, objects.Key{Namespace: "default", Name: name}, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	runs := stored.DeepCopy()
	runs.Status.NodeName, runs.Status.Phase = node, kubevirtv1.Running
	var tx objects.Tx
	tx.Update(stored, runs)
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	return runs
}

// nextPod returns the next event of a Pod.
func nextPod(t *testing.T, w watch.Interface) watch.Event {
	t.Helper()
	for {
		select {
		case e, open := <-w.ResultChan():
			if !open {
				t.Fatal("the watch has ended")
			}
			if e.Type != watch.Bookmark {
				return e
			}
		case <-time.After(time.Minute):
			t.Fatal("no event")
		}
	}
}

// Each instance has a pod, which is found as those of other clusters are, and nobody makes one.
func TestInstancesHavePods(t *testing.T) {
	t.Parallel()
	h := start(t)
	pods := kubernetes.NewForConfigOrDie(h.adminConfig(t)).CoreV1().Pods("default")
	none, err := pods.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(none.Items) != 0 {
		t.Fatalf("%v, %v", none, err)
	}
	w, err := pods.Watch(t.Context(), metav1.ListOptions{ResourceVersion: none.ResourceVersion, FieldSelector: "spec.nodeName=host1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	makeInstance(t, h, "vm1", "host1", "")
	makeInstance(t, h, "vm2", "host2", "")
	e := nextPod(t, w)
	pod, ok := e.Object.(*corev1.Pod)
	if !ok || !strings.HasPrefix(pod.Name, "virt-launcher-vm1-") || pod.Spec.NodeName != "host1" || pod.Status.Phase != corev1.PodRunning {
		t.Fatalf("%s %+v", e.Type, e.Object)
	}
	got, err := pods.Get(t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil || got.UID != pod.UID || got.Labels["app"] != "web" {
		t.Errorf("%+v, %v", got, err)
	}
	for selector, want := range map[metav1.ListOptions]int{
		{}: 2, {FieldSelector: "spec.nodeName=host2"}: 1, {FieldSelector: "metadata.name=" + pod.Name}: 1,
		{LabelSelector: "kubevirt.io=virt-launcher,app=web"}: 2, {LabelSelector: "app=db"}: 0, {FieldSelector: "status.phase=Pending"}: 0,
	} {
		list, err := pods.List(t.Context(), selector)
		if err != nil || len(list.Items) != want {
			t.Errorf("%+v: %d pods, want %d, %v", selector, len(list.Items), want, err)
		}
	}
	if _, err := pods.Get(t.Context(), "virt-launcher-vm1-aaaaa", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod of an earlier instance: %v", err)
	}
	box := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "box"}}
	if _, err = pods.Create(t.Context(), box, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `"box"`) || !strings.Contains(err.Error(), "no containers") {
		t.Errorf("a pod: %v", err)
	}
}

// To delete or to evict a pod ends its instance and no other; one whose guest is to be moved stays.
func TestPodsEndWithTheirInstances(t *testing.T) {
	t.Parallel()
	h := start(t)
	client := kubernetes.NewForConfigOrDie(h.adminConfig(t)).CoreV1().Pods("default")
	podOf := func(name string) *corev1.Pod {
		t.Helper()
		list, err := client.List(t.Context(), metav1.ListOptions{LabelSelector: "vm.kubevirt.io/name=" + name})
		if err != nil || len(list.Items) != 1 {
			t.Fatalf("%s: %+v, %v", name, list, err)
		}
		return &list.Items[0]
	}
	deleting := func(name string) bool {
		t.Helper()
		obj, err := h.dynamic(t).Resource(instancesResource).Namespace("default").Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && obj.GetDeletionTimestamp() != nil
	}
	evict := func(pod *corev1.Pod, dryRun ...string) error {
		return client.EvictV1(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: pod.Name}, DeleteOptions: &metav1.DeleteOptions{DryRun: dryRun}})
	}
	makeInstance(t, h, "deleted", "host1", "")
	makeInstance(t, h, "evicted", "host1", "evictionStrategy: None")
	makeInstance(t, h, "moved", "host1", "evictionStrategy: LiveMigrate")

	pod, wrong := podOf("deleted"), podOf("evicted").UID
	if err := client.Delete(t.Context(), pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}}); !apierrors.IsConflict(err) || deleting("deleted") {
		t.Errorf("the pod of another UID: %v", err)
	}
	if err := client.Delete(t.Context(), pod.Name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil || deleting("deleted") {
		t.Errorf("a rehearsal: %v", err)
	}
	if err := client.Delete(t.Context(), pod.Name, metav1.DeleteOptions{}); err != nil || !deleting("deleted") {
		t.Errorf("delete: %v", err)
	}
	if err := evict(podOf("evicted"), metav1.DryRunAll); err != nil || deleting("evicted") {
		t.Errorf("a rehearsal: %v", err)
	}
	if err := evict(podOf("evicted")); err != nil || !deleting("evicted") {
		t.Errorf("evict: %v", err)
	}
	if err := evict(podOf("moved")); !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "default/moved has evictionStrategy LiveMigrate") || deleting("moved") {
		t.Errorf("evict what is to be moved: %v", err)
	}
}
