package stewards_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/host/publish"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/collect"
	"virtmesh/agent/stewards/schedule"
	"virtmesh/agent/stewards/vm"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
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
