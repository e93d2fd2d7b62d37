package store_test

import (
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
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
	"virtmesh/agent/objects"
	"virtmesh/raftstore/raftstoretest"
)

// The leader dies while clients of the other hosts create objects and count in one. Who made an
// object is never told that it exists already, and nothing is counted twice: a write whose
// outcome nobody knows is told as such, and happened once or not at all.
func TestWritesWhileTheLeaderDies(t *testing.T) {
	cluster := raftstoretest.NewCluster(t, 3)
	leader := cluster.Leader()
	var stores []*store.Store
	for _, host := range []string{"host1", "host2", "host3"} {
		if host != leader {
			stores = append(stores, store.New(store.Config{
				Backend: objects.FromRaft(cluster.Node(host), nil), Codec: store.NewCodec(kinds.For[*corev1.ConfigMap]()),
				Resource: schema.GroupResource{Resource: "configmaps"}, Prefix: "/registry/core/configmaps",
				New: func() runtime.Object { return &corev1.ConfigMap{} }, Patience: time.Minute,
			}))
		}
	}
	const counter = "/registry/core/configmaps/default/counter"
	if err := stores[0].Create(t.Context(), counter, namedMap("counter", "0"), nil, 0); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var made, counted, unknown atomic.Int64
	stop := make(chan struct{})
	for client := range 8 {
		s := stores[client%2]
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("m-%d-%d", client, i)
				err := s.Create(t.Context(), "/registry/core/configmaps/default/"+name, namedMap(name, ""), nil, 0)
				switch {
				case err == nil:
					made.Add(1)
				case apistorage.IsExist(err) || apierrors.IsAlreadyExists(err):
					t.Errorf("%s, which nobody else makes: %v", name, err)
				}
				switch err := s.GuaranteedUpdate(t.Context(), counter, &corev1.ConfigMap{}, false, nil, increment, nil); {
				case err == nil:
					counted.Add(1)
				case fault.CodeOf(err) == fault.UnknownOutcome:
					unknown.Add(1)
				}
			}
		})
	}
	awaitMore(t, &made)
	cluster.Kill(leader)
	awaitMore(t, &made)
	awaitMore(t, &counted)
	close(stop)
	wg.Wait()
	out := &corev1.ConfigMap{}
	if err := stores[1].Get(t.Context(), counter, apistorage.GetOptions{}, out); err != nil {
		t.Fatal(err)
	}
	if n, _ := strconv.ParseInt(out.Data["k"], 10, 64); n < counted.Load() || n > counted.Load()+unknown.Load() {
		t.Errorf("counted to %d by %d updates, and %d of which nobody knows", n, counted.Load(), unknown.Load())
	}
}

// awaitMore waits until ten more of something have happened.
func awaitMore(t *testing.T, n *atomic.Int64) {
	t.Helper()
	want := n.Load() + 10
	raftstoretest.Eventually(t, func() error {
		if have := n.Load(); have < want {
			return fmt.Errorf("%d of %d", have, want)
		}
		return nil
	})
}

func namedMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Data: map[string]string{"k": value}}
}

func increment(obj runtime.Object, _ apistorage.ResponseMeta) (runtime.Object, *uint64, error) {
	m := obj.(*corev1.ConfigMap)
	n, err := strconv.Atoi(m.Data["k"])
	if err != nil {
		return nil, nil, err
	}
	m.Data["k"] = strconv.Itoa(n + 1)
	return m, nil, nil
}
