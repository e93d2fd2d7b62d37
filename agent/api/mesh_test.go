package api_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"virtmesh/agent/api"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// Any host answers any command: what one host acknowledged, the others show in
// their very next answer, and tell their watchers.
func TestEveryHostServes(t *testing.T) {
	mesh := raftstoretest.NewCluster(t, 3)
	ca := newAuthority(t)
	var hosts []*host
	for _, store := range mesh.Live() {
		hosts = append(hosts, serve(t, store, ca))
	}
	ctx := t.Context()
	for i, h := range hosts {
		other := hosts[(i+1)%len(hosts)].admin(t).CoreV1().ConfigMaps("default")
		w, err := other.Watch(ctx, metav1.ListOptions{LabelSelector: fmt.Sprintf("from=%d", i)})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
		for n := range 5 {
			name := fmt.Sprintf("m-%d-%d", i, n)
			m := newMap(name, map[string]string{"from": fmt.Sprint(i)})
			if _, err := h.admin(t).CoreV1().ConfigMaps("default").Create(ctx, m, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := other.Get(ctx, name, getOptions); err != nil {
				t.Errorf("another host after the write: %v", err)
			}
			list, err := other.List(ctx, metav1.ListOptions{LabelSelector: fmt.Sprintf("from=%d", i)})
			if err != nil || len(list.Items) != n+1 {
				t.Errorf("another host lists %d, %v, want %d", len(list.Items), err, n+1)
			}
			next(t, w, watch.Added, name)
		}
	}
}

// Without a quorum a host says so, and soon; what it holds can still be read by
// those who ask for no more.
func TestWithoutQuorum(t *testing.T) {
	mesh := raftstoretest.NewCluster(t, 3)
	h := serve(t, mesh.Node("host1"), newAuthority(t), func(c *api.Config) { c.Patience = 5 * time.Second })
	ctx := t.Context()
	client := h.admin(t).CoreV1().RESTClient()
	before := raftstore.Op{Key: "/registry/core/configmaps/default/before", Value: []byte(`{"metadata":{"namespace":"default","name":"before"}}`)}
	if _, err := h.store.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{before}}); err != nil {
		t.Fatal(err)
	}
	mesh.Kill("host2")
	mesh.Kill("host3")
	var code int
	client.Post().AbsPath("/api/v1/namespaces/default/configmaps").MaxRetries(0).Body(newMap("after", nil)).Do(ctx).StatusCode(&code)
	if code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout {
		t.Errorf("a write answers %d, want 503 or 504", code)
	}
	client.Get().AbsPath("/api/v1/namespaces/default/configmaps").MaxRetries(0).Do(ctx).StatusCode(&code)
	if code != http.StatusServiceUnavailable && code != http.StatusGatewayTimeout {
		t.Errorf("a linearizable read answers %d, want 503 or 504", code)
	}
	var list corev1.ConfigMapList
	err := client.Get().AbsPath("/api/v1/namespaces/default/configmaps").Param("resourceVersion", "0").Do(ctx).Into(&list)
	if err != nil || len(list.Items) != 1 {
		t.Errorf("a read of what the host holds: %d items, %v", len(list.Items), err)
	}
	if r, err := h.anonymous().Get(h.url + "/livez"); err != nil || r.StatusCode != http.StatusOK {
		t.Errorf("livez: %v, %v", r, err)
	}
}

// Protobuf is offered for the kinds that have it, and JSON is agreed on for the
// others.
func TestProtobufClients(t *testing.T) {
	h := start(t)
	config := h.adminConfig(t)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client := kubernetes.NewForConfigOrDie(config)
	maps := client.CoreV1().ConfigMaps("default")
	if _, err := maps.Create(t.Context(), newMap("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if m, err := maps.Get(t.Context(), "a", getOptions); err != nil || m.Name != "a" {
		t.Errorf("get: %v", err)
	}
	meta := metadata.NewForConfigOrDie(config).Resource(vmResource).Namespace("default")
	if _, err := h.dynamic(t).Resource(vmResource).Namespace("default").Create(t.Context(), parse(t, vmManifest), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list, err := meta.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != "testvm" {
		t.Errorf("metadata of machines: %v", err)
	}
	if err := meta.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Errorf("deletecollection: %v", err)
	}
}
