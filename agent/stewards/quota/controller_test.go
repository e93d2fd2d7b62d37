package quota

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"virtmesh/agent/kinds/usage"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/collect"
	"virtmesh/agent/stewards/stewardstest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// mesh is three replicas, whose hosts all run the loops.
type mesh struct {
	testing.TB
	stores []objects.Store
}

func startMesh(t *testing.T) *mesh {
	t.Helper()
	cluster := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(c *raftstore.Config) { c.FeatureLevel = level.Known() }))
	m := &mesh{TB: t}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(cancel)
	run := func(loop func(context.Context) error) {
		wg.Go(func() {
			if err := loop(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for i := range 3 {
		host, log := fmt.Sprintf("host%d", i+1), slog.New(slog.DiscardHandler)
		store := stewards.Guard(objects.FromRaft(cluster.Node(host), nil))
		cfg := objects.DefaultCacheConfig()
		cfg.Store, cfg.Logger = store, log
		cache, err := objects.NewCache(cfg)
		m.check(err)
		d := stewards.Deps{Store: store, Cache: cache, Logger: log, Undeclared: func(err error) { t.Error(err) }}
		if i > 0 {
			d.Stewardship = stewards.NewStewardship(stewards.StewardshipConfig{Self: host, Members: &stewardstest.Members{}})
		}
		c, err := New(d)
		m.check(err)
		run(func(ctx context.Context) error { cache.Run(ctx); return nil })
		run(c.Run)
		if i == 0 {
			collector, err := collect.New(d)
			m.check(err)
			run(collector.Run)
		}
		m.stores = append(m.stores, store)
	}
	return m
}

func (m *mesh) check(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *mesh) commit(build func(tx *objects.Tx)) {
	m.Helper()
	var tx objects.Tx
	build(&tx)
	_, err := tx.Commit(m.Context(), m.stores[0])
	m.check(err)
}

func newMap(namespace, name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, OwnerReferences: owners}}
}

func newQuota(namespace, name, maps string) *corev1.ResourceQuota {
	q := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	q.Spec.Hard = corev1.ResourceList{"count/configmaps": resource.MustParse(maps), corev1.ResourceQuotas: resource.MustParse("5")}
	return q
}

// used returns what the status of a quota says, "" while it says nothing.
func (m *mesh) used(namespace, name string) string {
	m.Helper()
	q, err := objects.Get[*corev1.ResourceQuota](m.Context(), m.stores[1], objects.Key{Namespace: namespace, Name: name}, raftstore.ReadOptions{})
	m.check(err)
	n, ok := q.Status.Used["count/configmaps"]
	if !ok {
		return ""
	}
	return n.String()
}

func (m *mesh) waitUsed(namespace, name, want string) {
	m.Helper()
	got := ""
	for end := time.Now().Add(raftstoretest.ReadyTimeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if got = m.used(namespace, name); got == want {
			return
		}
	}
	m.Fatalf("quota %s: used %q, want %q", name, got, want)
}

// A quota counts what was there before it; what the collector deletes is given back; and nothing
// is left of a namespace's usage when its last quota is gone.
func TestQuotaOverItsLife(t *testing.T) {
	m := startMesh(t)
	owner := newMap("ns", "owner")
	m.commit(func(tx *objects.Tx) { tx.Create(owner) })
	ref := metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: owner.UID}
	m.commit(func(tx *objects.Tx) {
		tx.Create(newMap("ns", "a", ref))
		tx.Create(newMap("ns", "b", ref))
		tx.Create(newMap("other", "c"))
	})
	m.commit(func(tx *objects.Tx) { tx.Create(newQuota("ns", "q", "3")) })
	m.waitUsed("ns", "q", "3")
	var tx objects.Tx
	tx.Create(newMap("ns", "d"))
	if _, err := tx.Commit(t.Context(), m.stores[2]); !apierrors.IsForbidden(err) {
		t.Errorf("one too many: %v", err)
	}
	m.commit(func(tx *objects.Tx) { tx.Create(newQuota("ns", "second", "9")) })
	m.waitUsed("ns", "second", "3")
	m.commit(func(tx *objects.Tx) { tx.Delete(owner, objects.DeleteOptions{}) })
	m.waitUsed("ns", "q", "0")
	for _, name := range []string{"q", "second"} {
		for {
			q, err := objects.Get[*corev1.ResourceQuota](t.Context(), m.stores[0], objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
			m.check(err)
			var tx objects.Tx
			tx.Delete(q, objects.DeleteOptions{})
			if _, err = tx.Commit(t.Context(), m.stores[0]); err == nil {
				break
			}
			if !objects.LostRace(err) {
				t.Fatal(err)
			}
		}
	}
	if rec, _, err := m.stores[0].Get(t.Context(), usage.Key("ns"), raftstore.ReadOptions{}); err == nil {
		t.Errorf("left of the quotas: %s", rec.Value)
	}
}

// An error of the record, wherever it comes from, is mended.
func TestWrongUsageIsMended(t *testing.T) {
	m := startMesh(t)
	m.commit(func(tx *objects.Tx) { tx.Create(newMap("ns", "a")) })
	wrong := usage.Record{Limits: map[string]usage.Amounts{"q": newQuota("ns", "q", "9").Spec.Hard}, Counts: 1, Used: usage.Amounts{"count/configmaps": resource.MustParse("7")}}
	m.commit(func(tx *objects.Tx) { objects.PutValue(tx, usage.Key("ns"), wrong) })
	m.commit(func(tx *objects.Tx) { tx.Create(newQuota("ns", "q", "9")) })
	m.waitUsed("ns", "q", "1")
}

// try is what a host does in the property below.
type try struct {
	host, name int
	delete     bool
}

// Whatever hosts create and delete at once, a quota is never passed, and in the end as much is
// used as there is.
func TestQuotasHoldUnderConcurrency(t *testing.T) {
	m := startMesh(t)
	round := 0
	rapid.Check(t, func(r *rapid.T) {
		round++
		ns, limit := fmt.Sprint("ns", round), rapid.IntRange(0, 4).Draw(r, "limit")
		before := rapid.IntRange(0, 3).Draw(r, "before")
		plans := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) try {
			return try{rapid.IntRange(0, 2).Draw(r, "host"), rapid.IntRange(0, 7).Draw(r, "name"), rapid.Bool().Draw(r, "delete")}
		}), 1, 24).Draw(r, "tries")
		for i := range before {
			m.commit(func(tx *objects.Tx) { tx.Create(newMap(ns, fmt.Sprint("old", i))) })
		}
		var wg sync.WaitGroup
		wg.Go(func() { m.commit(func(tx *objects.Tx) { tx.Create(newQuota(ns, "q", fmt.Sprint(limit))) }) })
		for host := range 3 {
			wg.Go(func() { m.carryOut(ns, host, plans) })
		}
		wg.Wait()
		m.waitUsed(ns, "q", fmt.Sprint(m.maps(ns)))
		// Once the quota is counted, nobody passes it.
		peak := m.maps(ns)
		for host := range 3 {
			wg.Go(func() { m.carryOut(ns, host, plans) })
		}
		wg.Wait()
		if n := m.maps(ns); n > max(limit, peak) {
			r.Fatalf("%d objects, of which %d were there before a quota of %d", n, peak, limit)
		}
		m.waitUsed(ns, "q", fmt.Sprint(m.maps(ns)))
	})
}

// carryOut does what a host has to do, and accepts that others were first and that there is no
// room.
func (m *mesh) carryOut(namespace string, host int, plans []try) {
	store := m.stores[host]
	for _, p := range slices.DeleteFunc(slices.Clone(plans), func(p try) bool { return p.host != host }) {
		key := objects.Key{Namespace: namespace, Name: fmt.Sprint("new", p.name)}
		var tx objects.Tx
		if p.delete {
			old, err := objects.Get[*corev1.ConfigMap](m.Context(), store, key, raftstore.ReadOptions{Consistency: raftstore.Local})
			if err != nil {
				continue
			}
			tx.Delete(old, objects.DeleteOptions{})
		} else {
			tx.Create(newMap(key.Namespace, key.Name))
		}
		if _, err := tx.Commit(m.Context(), store); err != nil && !apierrors.IsForbidden(err) && !objects.LostRace(err) {
			m.Errorf("%+v: %v", p, err)
		}
		time.Sleep(rand.N(time.Millisecond))
	}
}

func (m *mesh) maps(namespace string) int {
	m.Helper()
	all, _, err := objects.List[*corev1.ConfigMap](m.Context(), m.stores[2], namespace, raftstore.ReadOptions{})
	m.check(err)
	return len(all)
}
