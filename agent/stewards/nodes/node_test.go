package nodes

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/schedule/place"
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

// bench is a host h1 with both loops, in a bubble of fake time.
type bench struct {
	*testing.T
	store   *objectstest.Store
	members *members
	mu      sync.Mutex
	d       Description
	pub     *Publisher
}

func (b *bench) describe(edit func(*Description)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	edit(&b.d)
}

func run(t *testing.T, test func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		b := &bench{T: t, store: objectstest.New(claims.Rules()...), members: &members{names: []string{"h1"}}}
		b.d = Description{
			Capacity: place.Resources{CPUMilli: 8000, MemoryBytes: 8 << 30}, Allocatable: place.Resources{CPUMilli: 8000, MemoryBytes: 7 << 30},
			KVM: true, Zone: "a", CPUModels: []string{"Haswell", "qemu64"}, CPUFeatures: []string{"avx"},
			Info: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64"},
		}
		cacheCfg := objects.DefaultCacheConfig()
		cacheCfg.Store, cacheCfg.Logger = b.store, log
		cache, err := objects.NewCache(cacheCfg)
		if err != nil {
			t.Fatal(err)
		}
		pubCfg := DefaultPublisherConfig()
		pubCfg.Host, pubCfg.Store, pubCfg.Cache, pubCfg.Claims, pubCfg.Logger = "h1", b.store, cache, claims.NewCache(cache, log), log
		pubCfg.Describe = func() Description {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.d
		}
		if b.pub, err = NewPublisher(pubCfg); err != nil {
			t.Fatal(err)
		}
		recCfg := objects.DefaultRecorderConfig()
		recCfg.Store, recCfg.Logger, recCfg.Component, recCfg.Host = b.store, log, "node", "h1"
		rec, err := objects.NewRecorder(recCfg)
		if err != nil {
			t.Fatal(err)
		}
		watchCfg := DefaultWatcherConfig()
		watchCfg.Store, watchCfg.Cache, watchCfg.Members, watchCfg.Recorder, watchCfg.Logger = b.store, cache, b.members, rec, log
		watcher, err := NewWatcher(watchCfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Run(ctx) })
		for _, run := range []func(context.Context) error{b.pub.Run, watcher.Run} {
			wg.Go(func() {
				if err := run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
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

func (b *bench) edit(name string, f func(*corev1.Node)) {
	b.Helper()
	old := b.node(name)
	next := old.DeepCopy()
	f(next)
	var tx objects.Tx
	tx.Update(old, next)
	if _, err := tx.Commit(b.Context(), b.store); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

func hasTaint(n *corev1.Node, key string) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
}

func TestAHostPublishesItself(t *testing.T) {
	run(t, func(b *bench) {
		n := b.node("h1")
		for key, want := range map[string]string{
			corev1.LabelHostname: "h1", corev1.LabelTopologyZone: "a", kubevirtv1.NodeSchedulable: "true",
			kubevirtv1.CPUModelLabel + "Haswell": "true", kubevirtv1.CPUModelLabel + "qemu64": "", kubevirtv1.CPUFeatureLabel + "avx": "true",
		} {
			if n.Labels[key] != want {
				b.Errorf("label %s is %q, want %q", key, n.Labels[key], want)
			}
		}
		if c := condition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
			b.Errorf("Ready %+v", c)
		}
		if q := n.Status.Allocatable[corev1.ResourceMemory]; q.Value() != 7<<30 {
			b.Errorf("allocatable memory %s", q.String())
		}
		c, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
		if err != nil || c.Allocatable.MemoryBytes != 7<<30 {
			b.Errorf("capacity %+v (%v)", c, err)
		}
		if n := b.store.Commits(); n != 1 {
			b.Errorf("%d transactions, want 1", n)
		}
		time.Sleep(time.Hour)
		if n := b.store.Commits(); n != 1 {
			b.Errorf("%d transactions after an hour without news, want 1", n)
		}
	})
}

func TestChangesOfTheHostAreFollowed(t *testing.T) {
	run(t, func(b *bench) {
		b.edit("h1", func(n *corev1.Node) {
			n.Labels["mine"] = "kept"
			n.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
			n.Spec.Unschedulable = true
		})
		time.Sleep(time.Minute)
		b.describe(func(d *Description) {
			d.CPUModels, d.NotReady, d.KVM, d.KVMReason = []string{"Skylake"}, "libvirt does not answer", false, "no /dev/kvm"
			d.Allocatable.MemoryBytes = 6 << 30
		})
		time.Sleep(DefaultPublisherConfig().Interval)
		synctest.Wait()
		n := b.node("h1")
		if n.Labels["mine"] != "kept" || !hasTaint(n, "gpu") || !hasTaint(n, corev1.TaintNodeUnschedulable) || !n.Spec.Unschedulable {
			b.Errorf("what is the users' changed: %v %v", n.Labels, n.Spec)
		}
		if n.Labels[kubevirtv1.CPUModelLabel+"Haswell"] != "" || n.Labels[kubevirtv1.CPUModelLabel+"Skylake"] != "true" || n.Labels[kubevirtv1.NodeSchedulable] != "false" {
			b.Errorf("labels %v", n.Labels)
		}
		if r, k := condition(n, corev1.NodeReady), condition(n, ConditionKVM); r.Status != corev1.ConditionFalse || r.Message != "libvirt does not answer" || k.Status != corev1.ConditionFalse {
			b.Errorf("Ready %+v, KVM %+v", r, k)
		}
		c, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
		if err != nil || c.Allocatable.MemoryBytes != 6<<30 {
			b.Errorf("capacity %+v (%v)", c, err)
		}
		b.edit("h1", func(n *corev1.Node) { n.Spec.Unschedulable = false })
		if hasTaint(b.node("h1"), corev1.TaintNodeUnschedulable) {
			b.Error("the taint stays after uncordon")
		}
	})
}

// A host that is asked to leave and may not offers its room again.
func TestAPausedHostPublishesNothing(t *testing.T) {
	run(t, func(b *bench) {
		if err := b.pub.Pause(b.Context()); err != nil {
			b.Fatal(err)
		}
		capacity := func() claims.Capacity {
			c, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
			if err != nil {
				b.Fatal(err)
			}
			return c
		}
		var tx objects.Tx
		claims.Withdraw(&tx, capacity())
		tx.Delete(b.node("h1"), objects.DeleteOptions{})
		if _, err := tx.Commit(b.Context(), b.store); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Hour)
		if c := capacity(); c.Revision != 0 || len(b.store.Keys("/registry/core/nodes/")) != 0 {
			b.Errorf("published during the pause: %+v, %v", c, b.store.Keys("/registry/core/nodes/"))
		}
		b.pub.Resume()
		time.Sleep(time.Minute)
		if c := capacity(); c.Allocatable.MemoryBytes != 7<<30 || b.node("h1").Labels[corev1.LabelHostname] != "h1" {
			b.Errorf("not published again: %+v", c)
		}
	})
}

func TestDeadHostsAreMarkedAndComeBack(t *testing.T) {
	run(t, func(b *bench) {
		// h2 has a Node, and is not among the live from the start.
		var tx objects.Tx
		n := &corev1.Node{}
		n.Name = "h2"
		Description{KVM: true}.apply("h2", n, time.Now())
		tx.Create(n)
		if _, err := tx.Commit(b.Context(), b.store); err != nil {
			b.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if c := condition(b.node("h2"), corev1.NodeReady); c.Status != corev1.ConditionTrue {
			b.Errorf("marked before the membership settled: %+v", c)
		}
		b.members.set("h1", "h2")
		time.Sleep(time.Minute)
		if c := condition(b.node("h2"), corev1.NodeReady); c.Status != corev1.ConditionTrue {
			b.Errorf("a live host is marked: %+v", c)
		}
		b.members.set("h1")
		time.Sleep(6 * time.Second)
		n = b.node("h2")
		if c := condition(n, corev1.NodeReady); c.Status != corev1.ConditionUnknown || !hasTaint(n, corev1.TaintNodeUnreachable) || n.Labels[kubevirtv1.NodeSchedulable] != "false" {
			b.Errorf("not marked: %+v %v %v", c, n.Spec.Taints, n.Labels)
		}
		before := b.store.Commits()
		time.Sleep(3 * time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions while it stays dead", n)
		}
	})
}

func TestAHostContradictsTheNewsOfItsDeath(t *testing.T) {
	run(t, func(b *bench) {
		b.edit("h1", func(n *corev1.Node) { markUnreachable(n, time.Now()) })
		time.Sleep(time.Second)
		if c := condition(b.node("h1"), corev1.NodeReady); c.Status != corev1.ConditionUnknown {
			b.Error("contradicted at once")
		}
		time.Sleep(5 * time.Second)
		n := b.node("h1")
		if c := condition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || hasTaint(n, corev1.TaintNodeUnreachable) || n.Labels[kubevirtv1.NodeSchedulable] != "true" {
			b.Errorf("Ready %+v, %v, %v", c, n.Spec.Taints, n.Labels)
		}
	})
}

func TestSystemInfo(t *testing.T) {
	root := t.TempDir() + "/"
	for path, text := range map[string]string{
		"etc/os-release": "NAME=x\nPRETTY_NAME=\"Debian 12\"\n", "etc/machine-id": "abc\n", "proc/sys/kernel/osrelease": "6.1\n",
	} {
		if err := os.MkdirAll(filepath.Dir(root+path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(root+path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	info := SystemInfo(root, "v1")
	if info.OSImage != "Debian 12" || info.MachineID != "abc" || info.KernelVersion != "6.1" || info.KubeletVersion != "v1" || info.SystemUUID != "" {
		t.Errorf("%+v", info)
	}
}
