package schedule

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
	"virtmesh/raftstore"
)

const gib = 1 << 30

// facts is a membership that the test sets.
type facts struct {
	mu      sync.Mutex
	members map[string]gossip.Member
	// stewards are the members that take part in stewardship; the others are
	// only hosts, so that a test of one steward has all instances.
	stewards []string
	subs     []func(string)
}

var (
	_ Facts            = (*facts)(nil)
	_ stewards.Members = liveFacts{}
)

func (f *facts) Members() []gossip.Member {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []gossip.Member
	for _, m := range f.members {
		out = append(out, m)
	}
	return out
}

func (f *facts) Member(name string) (gossip.Member, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m, ok := f.members[name]
	return m, ok
}

func (f *facts) Subscribe(fn func(string)) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.subs = append(f.subs, fn)
	return func() {}
}

func (f *facts) set(name string, edit func(*gossip.Member)) {
	f.mu.Lock()
	m, ok := f.members[name]
	if !ok {
		m = gossip.Member{Name: name, State: gossip.Alive, Facts: gossip.Facts{KVM: true}}
	}
	if edit != nil {
		edit(&m)
	}
	f.members[name] = m
	f.mu.Unlock()
	f.tellOfHost(name)
}

// forgetHost removes a member that gossip no longer remembers.
func (f *facts) forgetHost(name string) {
	f.mu.Lock()
	delete(f.members, name)
	f.mu.Unlock()
	f.tellOfHost(name)
}

func (f *facts) tellOfHost(name string) {
	f.mu.Lock()
	subs := slices.Clone(f.subs)
	f.mu.Unlock()
	for _, fn := range subs {
		fn(name)
	}
}

// liveFacts is the membership that stewardship follows.
type liveFacts struct{ *facts }

func (l liveFacts) Subscribe(fn func()) func() { return l.facts.Subscribe(func(string) { fn() }) }

func (l liveFacts) Members() []string {
	var names []string
	for _, m := range l.facts.Members() {
		if m.State.Live() && slices.Contains(l.stewards, m.Name) {
			names = append(names, m.Name)
		}
	}
	return names
}

// answers are the offers of hosts, by name; a host without one accepts.
type answers struct {
	mu    sync.Mutex
	by    map[string]claims.Offer
	err   map[string]error
	asked []string
	wants []claims.OfferRequest
	// delay is how long hosts think, so that decisions are made side by side.
	delay time.Duration
}

var _ Offers = (*answers)(nil)

func (a *answers) Offer(_ context.Context, host string, wants claims.OfferRequest) (claims.Offer, error) {
	a.mu.Lock()
	delay := a.delay
	a.mu.Unlock()
	time.Sleep(delay)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked, a.wants = append(a.asked, host), append(a.wants, wants)
	if err := a.err[host]; err != nil {
		return claims.Offer{}, err
	}
	if o, ok := a.by[host]; ok {
		return o, nil
	}
	return claims.Offer{Accepted: true}, nil
}

// set changes the answers.
func (a *answers) set(edit func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	edit()
}

// bench is a mesh of stewards on one store, in a bubble of fake time.
type bench struct {
	*testing.T
	store  *objectstest.Store
	facts  *facts
	offers *answers
	views  []*View
	caches []*objects.Cache
	// controllers are in the order of the stewards.
	controllers []*Controller
	// figures are the metrics, one registry for each steward.
	figures []*prometheus.Registry
	stop    func()
}

// setUp starts a placement controller on each of the named stewards.
func setUp(t *testing.T, stewards ...string) *bench {
	t.Helper()
	b := &bench{
		T: t, store: objectstest.New(claims.Rules()...),
		facts: &facts{members: map[string]gossip.Member{}, stewards: stewards}, offers: &answers{by: map[string]claims.Offer{}, err: map[string]error{}},
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, s := range stewards {
		b.facts.set(s, nil)
	}
	for _, s := range stewards {
		b.start(ctx, &wg, s)
	}
	b.stop = func() {
		cancel()
		wg.Wait()
	}
	synctest.Wait()
	return b
}

func (b *bench) start(ctx context.Context, wg *sync.WaitGroup, steward string) {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	cacheCfg := objects.DefaultCacheConfig()
	cacheCfg.Store, cacheCfg.Logger = b.store, log
	cache, err := objects.NewCache(cacheCfg)
	if err != nil {
		b.Fatal(err)
	}
	recCfg := objects.DefaultRecorderConfig()
	recCfg.Store, recCfg.Logger, recCfg.Component, recCfg.Host = b.store, log, "virtmesh-scheduler", steward
	rec, err := objects.NewRecorder(recCfg)
	if err != nil {
		b.Fatal(err)
	}
	cc := claims.NewCache(cache, log)
	view := NewView(b.store, cache, cc, b.facts)
	b.views, b.caches = append(b.views, view), append(b.caches, cache)
	cfg := DefaultConfig()
	cfg.Store, cfg.Cache, cfg.Claims, cfg.View = b.store, cache, cc, view
	cfg.Volumes, cfg.Recorder, cfg.Logger = FromClaims(cache), rec, log
	cfg.Offers = b.offers
	figures := prometheus.NewPedanticRegistry()
	b.figures = append(b.figures, figures)
	cfg.Registerer = figures
	cfg.Stewardship = stewards.NewStewardship(stewards.StewardshipConfig{Self: steward, Members: liveFacts{b.facts}})
	c, err := New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.controllers = append(b.controllers, c)
	wg.Go(func() { cache.Run(ctx) })
	ready := make(chan struct{})
	wg.Go(func() { view.Run(ctx, func() { close(ready) }) })
	wg.Go(func() {
		<-ready
		if err := c.Run(ctx); err != nil {
			b.Errorf("Run: %v", err)
		}
	})
}

func (b *bench) commit(build func(tx *objects.Tx)) {
	b.Helper()
	var tx objects.Tx
	build(&tx)
	if _, err := tx.Commit(b.Context(), b.store); err != nil {
		b.Fatal(err)
	}
	synctest.Wait()
}

// hear changes what is known of a host, and lets the news spread.
func (b *bench) hear(name string, edit func(*gossip.Member)) {
	b.facts.set(name, edit)
	time.Sleep(time.Second)
}

// host adds a host that is alive and has published its capacity.
func (b *bench) host(name string, memory int64) {
	b.Helper()
	b.hear(name, nil)
	c, err := claims.GetCapacity(b.Context(), b.store, name, raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	c.Allocatable = machine.Resources{CPUMilli: 8000, MemoryBytes: memory}
	b.commit(func(tx *objects.Tx) { claims.Publish(tx, c) })
}

func instance(name string, edit ...func(*kubevirtv1.VirtualMachineInstance)) *kubevirtv1.VirtualMachineInstance {
	guest := resource.MustParse("1Gi")
	vmi := &kubevirtv1.VirtualMachineInstance{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, Finalizers: []string{kubevirtv1.VirtualMachineInstanceFinalizer},
	}}
	vmi.Spec.Domain.Memory = &kubevirtv1.Memory{Guest: &guest}
	vmi.Status.Phase = kubevirtv1.Pending
	for _, f := range edit {
		f(vmi)
	}
	return vmi
}

func (b *bench) create(name string, edit ...func(*kubevirtv1.VirtualMachineInstance)) {
	b.Helper()
	b.commit(func(tx *objects.Tx) { tx.Create(instance(name, edit...)) })
}

func (b *bench) vmi(name string) *kubevirtv1.VirtualMachineInstance {
	b.Helper()
	vmi, err := objects.Get[*kubevirtv1.VirtualMachineInstance](b.Context(), b.store, objects.Key{Namespace: "ns", Name: name}, raftstore.ReadOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
	return vmi
}

func (b *bench) claim(name string) (claims.Instance, bool) {
	b.Helper()
	in, ok, err := claims.GetInstance(b.Context(), b.store, b.vmi(name).UID, raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	return in, ok
}

func (b *bench) expectHost(name, host string) {
	b.Helper()
	vmi := b.vmi(name)
	in, _ := b.claim(name)
	if vmi.Status.NodeName != host || vmi.Labels[kubevirtv1.NodeNameLabel] != host || in.Host != host {
		b.Errorf("%s: nodeName %q, label %q, claim %q, want %q", name, vmi.Status.NodeName, vmi.Labels[kubevirtv1.NodeNameLabel], in.Host, host)
	}
	if vmi.Status.Phase != kubevirtv1.Scheduled {
		b.Errorf("%s: phase %s", name, vmi.Status.Phase)
	}
}

func (b *bench) expectWaiting(name, message string) {
	b.Helper()
	vmi := b.vmi(name)
	for _, c := range vmi.Status.Conditions {
		if c.Status == corev1.ConditionFalse && strings.Contains(c.Message, message) {
			if _, ok := b.claim(name); ok {
				b.Errorf("%s waits, but has a claim", name)
			}
			return
		}
	}
	b.Errorf("%s: phase %s on %q, conditions %+v, want one with %q", name, vmi.Status.Phase, vmi.Status.NodeName, vmi.Status.Conditions, message)
}

func (b *bench) events(reason string) (n int32) {
	b.Helper()
	list, _, err := objects.List[*corev1.Event](b.Context(), b.store, "", raftstore.ReadOptions{})
	if err != nil {
		b.Fatal(err)
	}
	for _, ev := range list {
		if ev.Reason == reason {
			n += ev.Count
		}
	}
	return n
}

func run(t *testing.T, test func(b *bench), stewards ...string) {
	t.Helper()
	if len(stewards) == 0 {
		stewards = []string{"h1"}
	}
	synctest.Test(t, func(t *testing.T) {
		b := setUp(t, stewards...)
		defer b.stop()
		test(b)
	})
}
