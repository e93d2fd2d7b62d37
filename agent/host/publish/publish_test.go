package publish

import (
	"context"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"reflect"
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
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/storage"
)

// bench is a host h1 that publishes itself, in a bubble of fake time.
type bench struct {
	*testing.T
	store *objectstest.Store
	cache *objects.Cache
	mu    sync.Mutex
	d     Description
	pub   *Publisher
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
		b := &bench{T: t, store: objectstest.New(claims.Rules()...)}
		b.d = Description{
			Capacity: machine.Resources{CPUMilli: 8000, MemoryBytes: 8 << 30}, Allocatable: machine.Resources{CPUMilli: 8000, MemoryBytes: 7 << 30},
			KVM: true, Zone: "a", CPUModels: []string{"Haswell", "qemu64"}, CPUFeatures: []string{"avx"},
			Info: corev1.NodeSystemInfo{OperatingSystem: "linux", Architecture: "amd64"},
		}
		cacheCfg := objects.DefaultCacheConfig()
		cacheCfg.Store, cacheCfg.Logger = b.store, log
		cache, err := objects.NewCache(cacheCfg)
		if err != nil {
			t.Fatal(err)
		}
		b.cache = cache
		pubCfg := DefaultConfig()
		pubCfg.Host, pubCfg.Store, pubCfg.Cache, pubCfg.Claims, pubCfg.Logger = "h1", b.store, cache, claims.NewCache(cache, log), log
		pubCfg.Describe = func() Description {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.d
		}
		if b.pub, err = New(pubCfg); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { cache.Run(ctx) })
		wg.Go(func() {
			if err := b.pub.Run(ctx); err != nil {
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
		if c := objects.NodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || c.LastTransitionTime.IsZero() {
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
		time.Sleep(DefaultConfig().Interval)
		synctest.Wait()
		n := b.node("h1")
		if n.Labels["mine"] != "kept" || !hasTaint(n, "gpu") || !hasTaint(n, corev1.TaintNodeUnschedulable) || !n.Spec.Unschedulable {
			b.Errorf("what is the users' changed: %v %v", n.Labels, n.Spec)
		}
		if n.Labels[kubevirtv1.CPUModelLabel+"Haswell"] != "" || n.Labels[kubevirtv1.CPUModelLabel+"Skylake"] != "true" || n.Labels[kubevirtv1.NodeSchedulable] != "false" {
			b.Errorf("labels %v", n.Labels)
		}
		if r, k := objects.NodeCondition(n, corev1.NodeReady), objects.NodeCondition(n, ConditionKVM); r.Status != corev1.ConditionFalse || r.Message != "libvirt does not answer" || k.Status != corev1.ConditionFalse {
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

func TestAHostContradictsTheNewsOfItsDeath(t *testing.T) {
	run(t, func(b *bench) {
		b.edit("h1", func(n *corev1.Node) {
			objects.SetNodeCondition(n, corev1.NodeCondition{Type: corev1.NodeReady, Status: corev1.ConditionUnknown}, time.Now())
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule})
			n.Labels[kubevirtv1.NodeSchedulable] = "false"
		})
		time.Sleep(time.Second)
		if c := objects.NodeCondition(b.node("h1"), corev1.NodeReady); c.Status != corev1.ConditionUnknown {
			b.Error("contradicted at once")
		}
		time.Sleep(5 * time.Second)
		n := b.node("h1")
		if c := objects.NodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionTrue || hasTaint(n, corev1.TaintNodeUnreachable) || n.Labels[kubevirtv1.NodeSchedulable] != "true" {
			b.Errorf("Ready %+v, %v, %v", c, n.Spec.Taints, n.Labels)
		}
	})
}

// An agent that starts before its hypervisor does not know what the host can run. What it
// published before stays: a capacity of nothing would be wrong, and placement keeps off the
// host anyway.
func TestWhatIsNotKnownYetStaysAsItWas(t *testing.T) {
	run(t, func(b *bench) {
		b.describe(func(d *Description) {
			*d = Description{Unknown: true, NotReady: "libvirt does not answer", Zone: "a", Info: d.Info}
		})
		time.Sleep(DefaultConfig().Interval)
		synctest.Wait()
		n := b.node("h1")
		if n.Status.Capacity.Cpu().MilliValue() != 8000 || n.Labels[kubevirtv1.CPUModelLabel+"Haswell"] != "true" || objects.NodeCondition(n, ConditionKVM).Status != corev1.ConditionTrue {
			b.Errorf("the Node forgot what the host can run: %+v %v", n.Status, n.Labels)
		}
		if objects.NodeCondition(n, corev1.NodeReady).Status != corev1.ConditionFalse || n.Labels[kubevirtv1.NodeSchedulable] != "false" {
			b.Errorf("the host can be chosen: %+v", n.Status.Conditions)
		}
		c, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
		if err != nil || c.Allocatable.MemoryBytes != 7<<30 {
			b.Errorf("capacity %+v (%v)", c, err)
		}
	})
}

// A host that becomes a witness is shown as one, offers nothing, and keeps what users set.
func TestAWitnessIsShownAsOne(t *testing.T) {
	run(t, func(b *bench) {
		b.edit("h1", func(n *corev1.Node) { n.Labels["mine"] = "kept" })
		b.describe(func(d *Description) { *d = Description{Witness: true, Zone: "a", Info: d.Info} })
		time.Sleep(DefaultConfig().Interval)
		synctest.Wait()
		n := b.node("h1")
		_, worker := n.Labels[roleWorker]
		if !objects.IsWitness(n) || worker || n.Labels["mine"] != "kept" || n.Labels[kubevirtv1.NodeSchedulable] != "false" || n.Labels[kubevirtv1.CPUModelLabel+"Haswell"] != "" {
			b.Errorf("labels %v", n.Labels)
		}
		if !hasTaint(n, objects.NodeRoleWitness) || !n.Status.Capacity.Cpu().IsZero() || !n.Status.Capacity.Pods().IsZero() {
			b.Errorf("taints %v, capacity %v", n.Spec.Taints, n.Status.Capacity)
		}
		if objects.NodeCondition(n, corev1.NodeReady).Status != corev1.ConditionTrue || objects.NodeCondition(n, ConditionKVM).Type != "" {
			b.Errorf("conditions %+v", n.Status.Conditions)
		}
		c, err := claims.GetCapacity(b.Context(), b.store, "h1", raftstore.ReadOptions{})
		if err != nil || c.Allocatable.MemoryBytes != 0 || c.Allocatable.CPUMilli != 0 {
			b.Errorf("capacity %+v (%v)", c, err)
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

func TestFactsFollowTheHost(t *testing.T) {
	run(t, func(b *bench) {
		told := make(chan gossip.Facts, 16)
		free := machine.Resources{CPUMilli: 500, MemoryBytes: 1 << 30}
		cfg := DefaultTellerConfig()
		cfg.Host, cfg.Logger = "h1", slog.New(slog.DiscardHandler)
		cfg.Facts = func() gossip.Facts { return gossip.Facts{Zone: "a"} }
		cfg.Tell = func(facts gossip.Facts) error { told <- facts; return nil }
		cfg.Free = func() machine.Resources { return free }
		cfg.Pools = func() map[string]storage.Space {
			return map[string]storage.Space{"local": {Capacity: 10, Free: 3}}
		}
		cfg.Images = func() []string { return []string{"sha256:1"} }
		cfg.Nodes = objects.For[*corev1.Node](b.cache)
		teller, err := NewTeller(cfg)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(b.Context())
		var done sync.WaitGroup
		done.Go(func() { teller.Run(ctx) })
		facts := <-told
		if facts.Zone != "a" || facts.Free.CPUMilli != 500 || facts.Pools["local"].Free != 3 || len(facts.Images) != 1 || facts.Unschedulable {
			b.Errorf("told %+v", facts)
		}
		b.edit("h1", func(n *corev1.Node) { n.Spec.Unschedulable = true })
		if facts := <-told; !facts.Unschedulable {
			b.Error("a cordoned host does not say so")
		}
		cancel()
		done.Wait()
	})
}

// TestHostAtRestTellsTheSame: a load and free space that wander a little around a value
// must not be gossiped, but a slow drift must be.
func TestHostAtRestTellsTheSame(t *testing.T) {
	at := func(load float64, free int64) gossip.Facts {
		return gossip.Facts{Load: load, Pools: map[string]gossip.Pool{"local": {Capacity: 1000, Free: free}}}
	}
	told, changes := at(0.5, 500), 0
	tell := func(facts gossip.Facts) {
		if next := steady(told, facts); !reflect.DeepEqual(next, told) {
			told, changes = next, changes+1
		}
	}
	for range 100 {
		tell(at(0.45, 509))
		tell(at(0.55, 491))
	}
	if changes != 0 {
		t.Errorf("a host at rest told %d changes", changes)
	}
	for i := range 100 {
		tell(at(0.5+float64(i)/100, 500-int64(i)))
	}
	if off := math.Abs(told.Load - 1.49); off > loadStep || told.Pools["local"].Free > 411 || changes > 25 {
		t.Errorf("after a slow drift the mesh has %+v, after %d changes", told, changes)
	}
	if next := steady(told, at(told.Load, 1)); next.Pools["local"].Free != 1 {
		t.Errorf("a full pool is not told: %+v", next)
	}
	grown := at(told.Load, told.Pools["local"].Free)
	grown.Pools["local"] = gossip.Pool{Capacity: 1011, Free: told.Pools["local"].Free}
	if next := steady(told, grown); next.Pools["local"].Capacity != 1011 {
		t.Errorf("a grown pool is not told: %+v", next)
	}
	// A dataset of ZFS has what others leave, so that its capacity moves with what is free.
	grown.Pools["local"] = gossip.Pool{Capacity: 1009, Free: told.Pools["local"].Free + 9}
	if next := steady(told, grown); !reflect.DeepEqual(next, told) {
		t.Errorf("a pool that wanders is told: %+v", next)
	}
}

// A host whose disk is nearly full is tainted as Kubernetes does it, so that no steward
// places anything new on it, and the taint goes with the condition.
func TestAFullDiskTaintsTheNode(t *testing.T) {
	described := func(status corev1.ConditionStatus) Description {
		return Description{Conditions: []corev1.NodeCondition{{Type: corev1.NodeDiskPressure, Status: status}}}
	}
	node := &corev1.Node{}
	node.Spec.Taints = []corev1.Taint{{Key: "gpu", Effect: corev1.TaintEffectNoSchedule}}
	want := corev1.Taint{Key: corev1.TaintNodeDiskPressure, Effect: corev1.TaintEffectNoSchedule}
	for range 2 {
		if described(corev1.ConditionTrue).apply("h1", node, time.Now()); len(node.Spec.Taints) != 2 || node.Spec.Taints[1] != want {
			t.Errorf("under pressure: %v", node.Spec.Taints)
		}
	}
	if described(corev1.ConditionFalse).apply("h1", node, time.Now()); len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != "gpu" {
		t.Errorf("with room: %v", node.Spec.Taints)
	}
}
