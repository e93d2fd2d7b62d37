package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"

	"virtmesh/raftstore"
)

func newMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// nextEvent reads an event. A test whose event does not come fails instead of waiting for ever.
func nextEvent(t testing.TB, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch ended")
		}
		return e
	case <-time.After(time.Minute):
		t.Fatal("no event within a minute")
	}
	return watch.Event{}
}

// next reads an event and checks it.
func next(t testing.TB, w watch.Interface, typ watch.EventType, name string) metav1.Object {
	t.Helper()
	e := nextEvent(t, w)
	m, ok := e.Object.(metav1.Object)
	if !ok || e.Type != typ || m.GetName() != name {
		t.Fatalf("event %s %v, want %s %s", e.Type, e.Object, typ, name)
	}
	return m
}

func TestWatchResumes(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	a, err := maps.Create(ctx, newMap("a", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Create(ctx, newMap("b", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: a.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next(t, w, watch.Added, "b")
	if gone := next(t, w, watch.Deleted, "a"); gone.GetResourceVersion() == a.ResourceVersion {
		t.Error("a deletion carries the resourceVersion of the object before it")
	}
}

func TestWatchWithSelector(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	w, err := maps.Watch(ctx, metav1.ListOptions{LabelSelector: "in=yes"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := maps.Create(ctx, newMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"yes", "no"} {
		patch := []byte(`{"metadata":{"labels":{"in":"` + value + `"}}}`)
		if _, err := maps.Patch(ctx, "a", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	next(t, w, watch.Added, "a")
	next(t, w, watch.Deleted, "a")
}

// A watch list ends its initial events with a bookmark.
func TestWatchList(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	if _, err := maps.Create(ctx, newMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	yes := true
	w, err := maps.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next(t, w, watch.Added, "a")
	mark := next(t, w, watch.Bookmark, "")
	if mark.GetAnnotations()[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("annotations %v, want the end of the initial events", mark.GetAnnotations())
	}
}

// A revision that the store has forgotten is gone, for lists and watches.
func TestTooOldIsGone(t *testing.T) {
	h := start(t, func(c *raftstore.Config) { c.Limits.HistoryEvents = 4 })
	ctx := t.Context()
	client := h.admin(t)
	maps := client.CoreV1().ConfigMaps("default")
	first, err := maps.Create(ctx, newMap("a", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if _, err := maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":null}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := maps.Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"x":"y"}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = maps.List(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact})
	if !apierrors.IsResourceExpired(err) {
		t.Errorf("list: %v, want expired", err)
	}
	w, err := maps.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	e := nextEvent(t, w)
	if err := apierrors.FromObject(e.Object); e.Type != watch.Error || !apierrors.IsResourceExpired(err) {
		t.Errorf("watch: %s %v, want expired", e.Type, e.Object)
	}
}

// A resourceVersion of the future is waited for and then refused with a hint to
// come back.
func TestFutureIsRefused(t *testing.T) {
	h := start(t)
	err := h.admin(t).CoreV1().RESTClient().Get().AbsPath("/api/v1/configmaps").Param("resourceVersion", "999999999").
		MaxRetries(0).Do(t.Context()).Error()
	if !apierrors.IsTimeout(err) || !strings.Contains(err.Error(), "Too large resource version") {
		t.Errorf("a list of the future gives %v", err)
	}
}

// table reads a resource as kubectl get does.
func table(t testing.TB, h *host, path string) *metav1.Table {
	t.Helper()
	config := h.adminConfig(t)
	config.GroupVersion = &corev1.SchemeGroupVersion
	config.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	client, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	out := &metav1.Table{}
	err = client.Get().AbsPath(path).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Into(out)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTables(t *testing.T) {
	h := start(t)
	ctx := t.Context()
	vms := h.dynamic(t).Resource(vmResource).Namespace("default")
	if _, err := vms.Create(ctx, parse(t, vmManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	vmis := h.dynamic(t).Resource(vmiResource).Namespace("default")
	if _, err := vmis.Create(ctx, parse(t, vmiManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/apis/kubevirt.io/v1/virtualmachines":                            "Name Age Status Ready",
		"/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances": "Name Age Phase IP NodeName Ready Live-Migratable* Paused*",
		"/apis/kubevirt.io/v1/virtualmachineinstancemigrations":           "Name Phase VMI",
		"/api/v1/nodes":      "Name Status Roles Age Version Internal-IP* External-IP* OS-Image* Kernel-Version* Container-Runtime*",
		"/api/v1/namespaces": "Name Status Age",
		"/apis/k8s.cni.cncf.io/v1/network-attachment-definitions":                 "Name Age",
		"/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances/testvmi": "Name Age Phase IP NodeName Ready Live-Migratable* Paused*",
	} {
		got := table(t, h, path)
		var heads []string
		for _, c := range got.ColumnDefinitions {
			head := c.Name
			if c.Priority > 0 {
				head += "*"
			}
			heads = append(heads, head)
		}
		if s := strings.Join(heads, " "); s != want {
			t.Errorf("%s has columns %s, want %s", path, s, want)
		}
	}
	row := table(t, h, "/apis/kubevirt.io/v1/virtualmachineinstances").Rows[0]
	if row.Cells[0] != "testvmi" || row.Cells[2] != "Pending" {
		t.Errorf("row %v, want testvmi Pending", row.Cells)
	}
}

func TestStopEndsWatches(t *testing.T) {
	h := start(t)
	w, err := h.admin(t).CoreV1().ConfigMaps("default").Watch(context.WithoutCancel(t.Context()), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	h.stop()
	for range w.ResultChan() {
	}
	r, err := h.anonymous().Get(h.url + "/livez")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a stopped server answers %s", r.Status)
	}
}

// TestSlowWatchOfOneState: a client that takes its time for the initial events of a watch
// gets all of one state, and what was changed meanwhile behind them.
func TestSlowWatchOfOneState(t *testing.T) {
	const objects = 300 // more than the connection holds of objects of this size
	h := start(t)
	ctx := t.Context()
	maps := h.admin(t).CoreV1().ConfigMaps("default")
	large := map[string]string{"k": strings.Repeat("x", 100_000)}
	for i := range objects {
		m := newMap(fmt.Sprintf("m-%03d", i), nil)
		m.Data = large
		if _, err := maps.Create(ctx, m, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	yes := true
	w, err := maps.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: &yes, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next(t, w, watch.Added, "m-000")
	last := fmt.Sprintf("m-%03d", objects-1)
	if _, err := maps.Patch(ctx, last, types.MergePatchType, []byte(`{"data":{"k":"new"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, "m-298", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := 1; i < objects; i++ {
		m := next(t, w, watch.Added, fmt.Sprintf("m-%03d", i)).(*corev1.ConfigMap)
		if m.Data["k"] != large["k"] {
			t.Fatalf("the initial event of %s shows a later state", m.Name)
		}
	}
	if e := nextEvent(t, w); e.Type != watch.Bookmark {
		t.Fatalf("%s behind the initial events, want the bookmark of their end", e.Type)
	}
	if m := next(t, w, watch.Modified, last).(*corev1.ConfigMap); m.Data["k"] != "new" {
		t.Error("the change that was made meanwhile is missing")
	}
	next(t, w, watch.Deleted, "m-298")
}
