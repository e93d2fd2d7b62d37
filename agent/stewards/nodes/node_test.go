package nodes

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/raftstore"
)

// members is a membership that the test sets.
type members struct {
	mu    sync.Mutex
	names []string
	subs  []func()
}

var _ stewards.Members = (*members)(nil)

func (m *members) Members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.names)
}

func (m *members) Subscribe(fn func()) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = append(m.subs, fn)
	return func() {}
}

func (m *members) set(names ...string) {
	m.mu.Lock()
	m.names = names
	subs := slices.Clone(m.subs)
	m.mu.Unlock()
	for _, fn := range subs {
		fn()
	}
}

// bench is a watcher in a bubble of fake time.
type bench struct {
	*testing.T
	store   *objectstest.Store
	members *members
}

func run(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		b := &bench{T: t, store: objectstest.New(), members: &members{names: []string{"h1"}}}
		cacheCfg := objects.DefaultCacheConfig()
		cacheCfg.Store, cacheCfg.Logger = b.store, log
		cache, err := objects.NewCache(cacheCfg)
		if err != nil {
			t.Fatal(err)
		}
		recCfg := objects.DefaultRecorderConfig()
		recCfg.Store, recCfg.Logger, recCfg.Component, recCfg.Host = b.store, log, "node", "h1"
		rec, err := objects.NewRecorder(recCfg)
		if err != nil {
			t.Fatal(err)
		}
		watchCfg := DefaultConfig()
		watchCfg.Store, watchCfg.Cache, watchCfg.Members, watchCfg.Recorder, watchCfg.Logger = b.store, cache, b.members, rec, log
		watcher, err := New(watchCfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Run(ctx) })
		wg.Go(func() {
			if err := watcher.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		test(b)
		cancel()
		wg.Wait()
	})
}

func (b *bench) node(name string) *corev1.Node {
	b.Helper()
	n, err := objects.Get[*corev1.Node](b.Context(), b.store, objects.Key{Name: name}, raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return n
}

func hasTaint(n *corev1.Node, key string) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

func TestDeadHostsAreMarked(t *testing.T) {
	run(t, func(b *bench) {
		// h2 has a Node, and is not among the live from the start.
		var tx objects.Tx
		n := &corev1.Node{}
		n.Name = "h2"
		objects.SetNodeCondition(n, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionTrue}, time.Now())
		tx.Create(n)
		if _, err := tx.Commit(b.Context(), b.store); err != nil {
			b.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if c := objects.NodeCondition(b.node("h2"), corev1.NodeReady); c.Status != corev1.ConditionTrue {
			b.Errorf("marked before the membership settled: %+v", c)
		}
		b.members.set("h1", "h2")
		time.Sleep(time.Minute)
		if c := objects.NodeCondition(b.node("h2"), corev1.NodeReady); c.Status != corev1.ConditionTrue {
			b.Errorf("a live host is marked: %+v", c)
		}
		b.members.set("h1")
		time.Sleep(6 * time.Second)
		n = b.node("h2")
		if c := objects.NodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionUnknown || !hasTaint(n, corev1.TaintNodeUnreachable) || n.Labels[kubevirtv1.NodeSchedulable] != "false" {
			b.Errorf("not marked: %+v %v %v", c, n.Spec.Taints, n.Labels)
		}
		before := b.store.Commits()
		time.Sleep(3 * time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions while it stays dead", n)
		}
	})
}
