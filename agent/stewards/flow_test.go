// Package stewards_test lets the control loops meet through a replicated
// store, as they do in a mesh: every host runs all of them, and a stand-in for
// the executor.
package stewards_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/collect"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/vm"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// membership stands in for gossip.
type membership struct {
	mu   sync.Mutex
	live map[string]bool
	subs []func()
}

// facts and members are the two ways in which the loops look at it.
type (
	facts   struct{ *membership }
	members struct{ *membership }
)

var (
	_ schedule.Facts   = facts{}
	_ stewards.Members = members{}
)

func (m *membership) Subscribe(fn func()) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.subs = append(m.subs, fn)
	return func() {}
}

func (m *membership) kill(host string) {
	m.mu.Lock()
	m.live[host] = false
	subs := slices.Clone(m.subs)
	m.mu.Unlock()
	for _, fn := range subs {
		fn()
	}
}

func (f facts) Members() []gossip.Member {
	var out []gossip.Member
	for _, name := range []string{"host1", "host2", "host3"} {
		if m, ok := f.Member(name); ok {
			out = append(out, m)
		}
	}
	return out
}

func (f facts) Member(name string) (gossip.Member, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	live, ok := f.live[name]
	state := gossip.Alive
	if !live {
		state = gossip.Dead
	}
	return gossip.Member{Name: name, State: state, Facts: gossip.Facts{KVM: true}}, ok
}

func (f facts) Subscribe(fn func(string)) func() { return f.membership.Subscribe(func() { fn("") }) }

func (m members) Members() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for name, live := range m.live {
		if live {
			out = append(out, name)
		}
	}
	return out
}

// counted counts the transactions that change the store.
type counted struct {
	objects.Store
	n *atomic.Int64
}

func (c counted) Commit(ctx context.Context, t raftstore.Txn) (raftstore.TxnResult, error) {
	res, err := c.Store.Commit(ctx, t)
	if err == nil && len(t.Ops) > 0 {
		c.n.Add(1)
	}
	return res, err
}

// executor stands in for the host that runs guests: they start at once, and
// stop when their instance is deleted.
type executor struct {
	host  string
	store objects.Store
	vmis  *objects.Informer[*kubevirtv1.VirtualMachineInstance]
}

func (e executor) Reconcile(ctx context.Context, key stewards.Key) (stewards.Result, error) {
	vmi, ok := e.vmis.Get(key)
	if !ok || vmi.Status.NodeName != e.host || vmi.IsFinal() {
		return stewards.Result{}, nil
	}
	next := vmi.DeepCopy()
	var tx objects.Tx
	switch {
	case vmi.DeletionTimestamp != nil:
		claim, ok, err := claims.GetInstance(ctx, e.store, vmi.UID, raftstore.ReadOptions{})
		if err != nil || !ok {
			return stewards.Result{}, err
		}
		claims.Release(&tx, claim)
		next.Status.Phase = kubevirtv1.Succeeded
		objects.RemoveFinalizer(next, kubevirtv1.VirtualMachineInstanceFinalizer)
	case vmi.Status.Phase == kubevirtv1.Scheduled:
		next.Status.Phase = kubevirtv1.Running
		next.Status.Conditions = []kubevirtv1.VirtualMachineInstanceCondition{{Type: kubevirtv1.VirtualMachineInstanceReady, Status: corev1.ConditionTrue}}
	}
	tx.Update(vmi, next)
	_, err := tx.Commit(ctx, e.store)
	return stewards.Result{}, err
}

// host is one host of the test's mesh.
type host struct {
	t      testing.TB
	name   string
	store  objects.Store
	runs   []func(context.Context) error
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (h *host) check(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// startHost runs all loops of a host.
func startHost(t testing.TB, name string, store objects.Store, m *membership) *host {
	h := &host{t: t, name: name, store: store}
	log := slog.New(slog.DiscardHandler)
	cacheCfg := objects.DefaultCacheConfig()
	cacheCfg.Store, cacheCfg.Logger = store, log
	cache, err := objects.NewCache(cacheCfg)
	h.check(err)
	cc := claims.NewCache(cache, log)
	recCfg := objects.DefaultRecorderConfig()
	recCfg.Store, recCfg.Component, recCfg.Host, recCfg.Logger = store, "virtmesh", name, log
	rec, err := objects.NewRecorder(recCfg)
	h.check(err)
	deps := stewards.Deps{
		Store: stewards.Guard(store), Cache: cache, Claims: cc, Recorder: rec,
		Stewardship: stewards.NewStewardship(stewards.StewardshipConfig{Self: name, Members: members{m}}), Logger: log, Undeclared: func(err error) { t.Error(err) },
	}

	vmCfg := vm.DefaultConfig()
	vmCfg.Deps = deps
	vms, err := vm.New(vmCfg)
	h.check(err)

	view := schedule.NewView(store, cache, cc, facts{m})
	plCfg := schedule.DefaultConfig()
	plCfg.Deps, plCfg.View, plCfg.Volumes = deps, view, schedule.FromClaims(cache)
	placing, err := schedule.New(plCfg)
	h.check(err)

	pubCfg := publish.DefaultConfig()
	pubCfg.Host, pubCfg.Store, pubCfg.Cache, pubCfg.Claims, pubCfg.Logger = name, store, cache, cc, log
	room := machine.Resources{CPUMilli: 32000, MemoryBytes: 64 << 30}
	pubCfg.Describe = func() publish.Description {
		return publish.Description{Capacity: room, Allocatable: room, KVM: true}
	}
	pub, err := publish.New(pubCfg)
	h.check(err)

	collector, err := collect.New(deps)
	h.check(err)

	vmis := objects.For[*kubevirtv1.VirtualMachineInstance](cache)
	executing, err := stewards.New(deps, stewards.Steward{
		Name: "executor", Everywhere: true, Reconciler: executor{name, deps.Store, vmis},
		Inputs: []stewards.Input{stewards.Watch[*kubevirtv1.VirtualMachineInstance](cache)},
	})
	h.check(err)

	h.runs = []func(context.Context) error{
		func(ctx context.Context) error { cache.Run(ctx); return nil },
		func(ctx context.Context) error { view.Run(ctx, func() {}); return nil },
		vms.Run, placing.Run, pub.Run, collector.Run, executing.Run,
	}
	ctx, cancel := context.WithCancel(context.Background())
	h.cancel = cancel
	for _, run := range h.runs {
		h.wg.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	return h
}

func (h *host) stop() {
	h.cancel()
	h.wg.Wait()
}

func alwaysOn(name string) *kubevirtv1.VirtualMachine {
	always := kubevirtv1.RunStrategyAlways
	guest := resource.MustParse("1Gi")
	v := &kubevirtv1.VirtualMachine{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	v.Spec.RunStrategy = &always
	v.Spec.Template = &kubevirtv1.VirtualMachineInstanceTemplateSpec{}
	v.Spec.Template.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest}
	return v
}

// wait polls until ok; in a bubble the time is fake.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not after a minute", what)
}

func list[T objects.Object](t testing.TB, s objects.Store) []T {
	t.Helper()
	out, _, err := objects.List[T](t.Context(), s, "", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func running(t testing.TB, s objects.Store) (n int) {
	t.Helper()
	for _, v := range list[*kubevirtv1.VirtualMachine](t, s) {
		if v.Status.PrintableStatus == kubevirtv1.VirtualMachineStatusRunning && v.Status.Ready {
			n++
		}
	}
	return n
}

// startMesh starts the loops of three hosts, each on the store that storeOf
// gives it.
func startMesh(t testing.TB, storeOf func(host string) objects.Store) (hosts []*host, m *membership, commits *atomic.Int64) {
	t.Helper()
	commits = new(atomic.Int64)
	m = &membership{live: map[string]bool{"host1": true, "host2": true, "host3": true}}
	for _, name := range []string{"host1", "host2", "host3"} {
		hosts = append(hosts, startHost(t, name, counted{storeOf(name), commits}, m))
	}
	wait(t, "nodes", func() bool { return len(list[*corev1.Node](t, hosts[0].store)) == 3 })
	return hosts, m, commits
}

func create(t testing.TB, s objects.Store, names ...string) {
	t.Helper()
	for _, name := range names {
		var tx objects.Tx
		tx.Create(alwaysOn(name))
		if _, err := tx.Commit(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
}

// A machine is up after four transactions: the user's, the instance, the claim
// and the start. One more tells its status.
func TestTransactionsPerMachine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := objectstest.New(claims.Rules()...)
		hosts, _, commits := startMesh(t, func(string) objects.Store { return shared })
		create(t, hosts[0].store, "warm")
		wait(t, "first running", func() bool { return running(t, hosts[0].store) == 1 })
		before := commits.Load()
		create(t, hosts[1].store, "vm")
		wait(t, "running", func() bool { return running(t, hosts[0].store) == 2 })
		time.Sleep(10 * time.Second)
		if n := commits.Load() - before; n != 5 {
			t.Errorf("%d transactions, want 5", n)
		}
		for _, h := range hosts {
			h.stop()
		}
	})
}

// The loops of three hosts on three real replicas.
func TestMachinesComeAndGo(t *testing.T) {
	cluster := raftstoretest.NewCluster(t, 3, raftstoretest.WithConstraints(claims.Rules()...))
	hosts, m, _ := startMesh(t, func(host string) objects.Store { return objects.FromRaft(cluster.Node(host), nil) })
	store := hosts[0].store
	const n = 30
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("vm", i))
	}
	create(t, store, names...)
	wait(t, "running", func() bool { return running(t, store) == n })
	perHost := map[string]int{}
	for _, vmi := range list[*kubevirtv1.VirtualMachineInstance](t, store) {
		perHost[vmi.Status.NodeName]++
	}
	for _, h := range hosts {
		if perHost[h.name] < n/5 {
			t.Errorf("instances by host: %v, want them spread", perHost)
		}
	}
	// One host's loops end; the others take its machines over.
	hosts[2].stop()
	m.kill("host3")
	create(t, store, "late1", "late2", "late3", "late4", "late5", "late6")
	wait(t, "running with two hosts", func() bool { return running(t, store) == n+6 })
	// The instances of the lost host are not this test's concern: only what
	// runs elsewhere is deleted.
	var doomed int
	for _, vmi := range list[*kubevirtv1.VirtualMachineInstance](t, store) {
		if vmi.Status.NodeName == "host3" {
			continue
		}
		doomed++
		v, err := objects.Get[*kubevirtv1.VirtualMachine](t.Context(), store, objects.KeyOf(vmi), raftstore.ReadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var tx objects.Tx
		tx.Delete(v, objects.DeleteOptions{Propagation: metav1.DeletePropagationForeground})
		if _, err := tx.Commit(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "deleted", func() bool { return len(list[*kubevirtv1.VirtualMachine](t, store)) == n+6-doomed })
	left := 0
	if _, err := objects.ListRecords(t.Context(), store, claims.Prefix, raftstore.ReadOptions{}, func(rec raftstore.Record) error {
		if strings.HasPrefix(rec.Key, "/claims/vmi/") {
			left++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if left != n+6-doomed {
		t.Errorf("%d claims left of %d machines", left, n+6-doomed)
	}
	hosts[0].stop()
	hosts[1].stop()
}

// BenchmarkCreateToRunning measures what the control loops add to the start of
// one machine, on three replicas, with a guest that starts in no time.
func BenchmarkCreateToRunning(b *testing.B) {
	cluster := raftstoretest.NewCluster(b, 3, raftstoretest.WithConstraints(claims.Rules()...))
	hosts, _, _ := startMesh(b, func(host string) objects.Store { return objects.FromRaft(cluster.Node(host), nil) })
	store := hosts[0].store
	i := 0
	for b.Loop() {
		name := fmt.Sprint("vm", i)
		i++
		w, err := store.Watch(b.Context(), raftstore.WatchRequest{Prefix: "/registry/kubevirt.io/virtualmachineinstances/ns/" + name})
		if err != nil {
			b.Fatal(err)
		}
		create(b, store, name)
		for ev := range w.Events() {
			vmi, err := objects.Decode[*kubevirtv1.VirtualMachineInstance](ev.Record)
			if err != nil {
				b.Fatal(err)
			}
			if vmi.Status.Phase == kubevirtv1.Running {
				break
			}
		}
		w.Stop()
	}
	b.StopTimer()
	for _, h := range hosts {
		h.stop()
	}
}
