package schedule

import (
	"context"
	"errors"
	"fmt"
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
	"virtmesh/agent/kinds"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/agent/stewards"
	"virtmesh/agent/stewards/schedule/place"
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

func TestPlacedInOneTransaction(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		before := b.store.Commits()
		b.create("a")
		b.expectHost("a", "h1")
		if n := b.store.Commits() - before; n != 2 {
			b.Errorf("%d transactions, want the user's and one", n)
		}
		vmi := b.vmi("a")
		if ts := vmi.Status.PhaseTransitionTimestamps; len(ts) != 1 || ts[0].Phase != kubevirtv1.Scheduled {
			b.Errorf("transitions %+v", ts)
		}
		if in, _ := b.claim("a"); in.Epoch != 1 || in.Resources.MemoryBytes <= gib {
			b.Errorf("claim %+v", in)
		}
		if b.events(reasonScheduled) != 1 {
			b.Errorf("%d events", b.events(reasonScheduled))
		}
	})
}

func TestWaitsForRoomAndTakesIt(t *testing.T) {
	run(t, func(b *bench) {
		b.create("a")
		b.expectWaiting("a", "0/1 hosts are available: 1 without published capacity")
		if b.vmi("a").Status.Phase != kubevirtv1.Scheduling || b.events(reasonFailedScheduling) != 1 {
			b.Errorf("phase %s, %d events", b.vmi("a").Status.Phase, b.events(reasonFailedScheduling))
		}
		// Hours without news cost nothing.
		before := b.store.Commits()
		time.Sleep(3 * time.Hour)
		if n := b.store.Commits() - before; n != 0 {
			b.Errorf("%d transactions while waiting", n)
		}
		b.host("h1", 2*gib)
		time.Sleep(time.Second)
		b.expectHost("a", "h1")
		if c := b.vmi("a").Status.Conditions; len(c) != 0 {
			b.Errorf("conditions left: %+v", c)
		}
		b.create("b")
		b.expectWaiting("b", "1 Insufficient memory")
		in, _ := b.claim("a")
		b.commit(func(tx *objects.Tx) { claims.Release(tx, in) })
		time.Sleep(time.Second)
		b.expectHost("b", "h1")
	})
}

func TestNodeObjectsCount(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 4*gib)
		for _, n := range []string{"h1", "h2"} {
			b.commit(func(tx *objects.Tx) {
				tx.Create(&corev1.Node{
					ObjectMeta: metav1.ObjectMeta{Name: n, Labels: map[string]string{"disk": map[string]string{"h1": "hdd", "h2": "ssd"}[n]}},
					Spec:       corev1.NodeSpec{Unschedulable: n == "h1"},
				})
			})
		}
		b.create("a")
		b.expectHost("a", "h2")
		b.create("b", func(vmi *kubevirtv1.VirtualMachineInstance) { vmi.Spec.NodeSelector = map[string]string{"disk": "hdd"} })
		b.expectWaiting("b", "0/2 hosts are available: 1 cordoned, 1 didn't match node affinity or selector")
		node, err := objects.Get[*corev1.Node](b.Context(), b.store, objects.Key{Name: "h1"}, raftstore.ReadOptions{})
		if err != nil {
			b.Fatal(err)
		}
		next := node.DeepCopy()
		next.Spec.Unschedulable = false
		b.commit(func(tx *objects.Tx) { tx.Update(node, next) })
		time.Sleep(time.Second)
		b.expectHost("b", "h1")
	})
}

func TestDeadHostsGetNothing(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 8*gib)
		b.hear("h2", func(m *gossip.Member) { m.State = gossip.Dead })
		b.create("a")
		b.expectHost("a", "h1")
		b.hear("h1", func(m *gossip.Member) { m.State = gossip.Suspect })
		b.create("b")
		b.expectWaiting("b", "1 not alive, 1 not answering")
		b.hear("h2", func(m *gossip.Member) { m.State = gossip.Alive })
		time.Sleep(time.Second)
		b.expectHost("b", "h2")
	})
}

func TestTheNextBestIsAskedAfterARefusal(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.host("h2", 8*gib)
		b.host("h3", 16*gib)
		b.offers.set(func() {
			b.offers.by["h3"] = claims.Offer{Reason: "memory is really used"}
			b.offers.err["h2"] = errors.New("connection refused")
		})
		b.create("a")
		b.expectHost("a", "h1")
		if want := []string{"h3", "h2", "h1"}; !slices.Equal(b.offers.asked, want) {
			b.Errorf("asked %v, want %v", b.offers.asked, want)
		}
		b.offers.set(func() { b.offers.by["h1"] = claims.Offer{} })
		b.create("b")
		b.expectWaiting("b", "1 gave no offer, 1 refused, 1 refused (memory is really used)")
		b.offers.set(func() { delete(b.offers.by, "h3") })
		time.Sleep(2 * time.Minute)
		b.expectHost("b", "h3")
	})
}

// TestHostsThatWereNotAskedAreCounted: five refusals in a mesh of eight hosts must not
// read as if the mesh had five.
func TestHostsThatWereNotAskedAreCounted(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 8 {
			name := fmt.Sprintf("h%d", i+1)
			b.host(name, 8*gib)
			b.offers.set(func() { b.offers.by[name] = claims.Offer{} })
		}
		b.create("a")
		b.expectWaiting("a", "0/8 hosts are available: 3 not asked yet, 5 refused")
	})
}

func TestUnclaimedInstancesAreLetGo(t *testing.T) {
	run(t, func(b *bench) {
		b.create("a")
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vmi("a"), objects.DeleteOptions{}) })
		if b.vmi("a") != nil {
			b.Error("a is still there")
		}
		// With another finalizer it stays, and says how it ended.
		b.create("b", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Finalizers = append(vmi.Finalizers, kubevirtv1.VirtualMachineControllerFinalizer)
		})
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vmi("b"), objects.DeleteOptions{}) })
		if vmi := b.vmi("b"); vmi.Status.Phase != kubevirtv1.Failed || objects.HasFinalizer(vmi, kubevirtv1.VirtualMachineInstanceFinalizer) {
			b.Errorf("%s %v", vmi.Status.Phase, vmi.Finalizers)
		}
		// One that has a claim is its host's.
		b.host("h1", 4*gib)
		b.create("c")
		b.commit(func(tx *objects.Tx) { tx.Delete(b.vmi("c"), objects.DeleteOptions{}) })
		time.Sleep(time.Hour)
		if b.vmi("c") == nil {
			b.Error("c was taken from its host")
		}
	})
}

func TestThePreviousInstanceMustBeGone(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 16*gib)
		b.create("a")
		claim, _ := b.claim("a")
		// It loses its finalizers by force, and its machine makes another.
		old := b.vmi("a")
		next := old.DeepCopy()
		next.Finalizers = nil
		b.commit(func(tx *objects.Tx) { tx.Update(old, next) })
		b.commit(func(tx *objects.Tx) { tx.Delete(next, objects.DeleteOptions{}) })
		b.create("a")
		b.expectWaiting("a", "host h1 has not let go of the previous instance")
		b.commit(func(tx *objects.Tx) { claims.Release(tx, claim) })
		time.Sleep(time.Second)
		b.expectHost("a", "h1")
		if in, _ := b.claim("a"); in.Epoch != 2 {
			b.Errorf("epoch %d, want 2", in.Epoch)
		}
	})
}

func TestVolumesComeFirstAndDecide(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		b.host("h2", 4*gib)
		withDisk := func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.Volumes = []kubevirtv1.Volume{{Name: "disk", VolumeSource: kubevirtv1.VolumeSource{
				PersistentVolumeClaim: &kubevirtv1.PersistentVolumeClaimVolumeSource{PersistentVolumeClaimVolumeSource: corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}},
			}}}
		}
		b.create("a", withDisk)
		b.expectWaiting("a", "PVC ns/data does not exist")
		if c := b.vmi("a").Status.Conditions[0]; c.Reason != ReasonPVCNotFound || c.Type != kubevirtv1.VirtualMachineInstanceSynchronized {
			b.Errorf("condition %+v", c)
		}
		b.commit(func(tx *objects.Tx) {
			tx.Create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "data", Annotations: map[string]string{kinds.SelectedNode: "h2"}}})
		})
		time.Sleep(time.Second)
		b.expectHost("a", "h2")
	})
}

// What TPM and firmware keep is on one host: the machine starts there or says why not.
func TestKeptStateDecides(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 8*gib)
		keeps := func(vmi *kubevirtv1.VirtualMachineInstance) {
			yes := true
			vmi.Spec.Domain.Devices.TPM = &kubevirtv1.TPMDevice{Persistent: &yes}
		}
		b.commit(func(tx *objects.Tx) {
			tx.Create(&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "persistent-state-for-a", Annotations: map[string]string{kinds.SelectedNode: "h2"}}})
		})
		b.create("a", keeps)
		b.expectWaiting("a", "did not have the state of its TPM and firmware, see PersistentVolumeClaim persistent-state-for-a")
		b.host("h2", 4*gib)
		time.Sleep(time.Minute)
		b.expectHost("a", "h2")
	})
}

func TestBadInstancesSayWhichField(t *testing.T) {
	run(t, func(b *bench) {
		b.host("h1", 4*gib)
		b.create("a", func(vmi *kubevirtv1.VirtualMachineInstance) {
			vmi.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{TopologyKey: "zone"}}
		})
		b.expectWaiting("a", "spec.topologySpreadConstraints[0]")
	})
}

func TestAntiAffinityAmongNewInstances(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 4 {
			b.host(fmt.Sprint("h", i+1), 16*gib)
		}
		b.commit(func(tx *objects.Tx) {
			for i := range 5 {
				tx.Create(instance(fmt.Sprint("db", i), apart))
			}
		})
		time.Sleep(time.Second)
		hosts := map[string]int{}
		for i := range 5 {
			hosts[b.vmi(fmt.Sprint("db", i)).Status.NodeName]++
		}
		if len(hosts) != 5 || hosts[""] != 1 {
			b.Errorf("hosts %v, want one each and one waiting", hosts)
		}
	})
}

// Stewards with separate views place many instances at once on hosts that hold
// few: nobody is overcommitted, and what fits is placed.
func TestManyStewardsShareTheMesh(t *testing.T) {
	stewards := []string{"h1", "h2", "h3", "h4"}
	run(t, func(b *bench) {
		for _, h := range stewards {
			b.host(h, 4*gib) // three instances each
		}
		b.commit(func(tx *objects.Tx) {
			for i := range 16 {
				tx.Create(instance(fmt.Sprint("vm", i)))
			}
		})
		time.Sleep(5 * time.Minute)
		perHost := map[string]int{}
		for i := range 16 {
			perHost[b.vmi(fmt.Sprint("vm", i)).Status.NodeName]++
		}
		for _, h := range stewards {
			if perHost[h] != 3 {
				b.Errorf("%s has %d instances, want 3 (%v)", h, perHost[h], perHost)
			}
		}
		// The views agree with the books.
		for _, v := range b.views {
			for size, want := range map[int64]int{1 * gib: 0, gib / 8: len(stewards)} {
				if n := fits(b, v, machine.Resources{MemoryBytes: size}); n != want {
					b.Errorf("%d bytes more fit on %d hosts, want %d", size, n, want)
				}
			}
		}
	}, stewards...)
}

// fits counts the hosts that would take an instance, by a view.
func fits(b *bench, v *View, more machine.Resources) (n int) {
	vmi := instance("last")
	vmi.UID = "last"
	all, err := place.NewRequest(vmi, place.DefaultPolicy())
	if err != nil {
		b.Fatal(err)
	}
	all.Resources = more
	for {
		choice, err := v.Decide(b.Context(), all)
		if err != nil {
			return n
		}
		v.Forget(all.UID)
		all.Avoid(choice.Host, "counted")
		n++
	}
}

// When a steward dies, another takes over its waiting instances.
func TestAnotherStewardTakesOver(t *testing.T) {
	run(t, func(b *bench) {
		// h9 is a member that never does anything.
		b.facts.stewards = append(b.facts.stewards, "h9")
		b.hear("h9", nil)
		b.host("h1", 64*gib)
		for i := range 12 {
			b.create(fmt.Sprint("vm", i))
		}
		placed := func() (n int) {
			for i := range 12 {
				if b.vmi(fmt.Sprint("vm", i)).Status.NodeName != "" {
					n++
				}
			}
			return n
		}
		if n := placed(); n == 0 || n == 12 {
			b.Fatalf("%d of 12 were h1's", n)
		}
		b.hear("h9", func(m *gossip.Member) { m.State = gossip.Dead })
		time.Sleep(time.Second)
		if n := placed(); n != 12 {
			b.Errorf("%d of 12 are placed", n)
		}
	})
}

// A steward keeps nothing of the waiting instances that are another's now.
func TestWhatMovedToAnotherStewardIsForgotten(t *testing.T) {
	run(t, func(b *bench) {
		for i := range 12 {
			b.create(fmt.Sprint("vm", i))
		}
		c := b.controllers[0]
		kept := func() (waiting, taken int) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.figures.mu.Lock()
			defer c.figures.mu.Unlock()
			return len(c.waiting), len(c.figures.taken)
		}
		if w, n := kept(); w != 12 || n != 12 {
			b.Fatalf("%d wait and %d are timed, want 12", w, n)
		}
		b.facts.stewards = append(b.facts.stewards, "h9")
		b.hear("h9", nil)
		time.Sleep(5 * time.Minute)
		mine := 0
		for i := range 12 {
			if c.cfg.Stewardship.Mine("virtualmachineinstances", objects.Key{Namespace: "ns", Name: fmt.Sprint("vm", i)}) {
				mine++
			}
		}
		if w, n := kept(); w != mine || n != mine || mine == 12 {
			b.Errorf("%d wait and %d are timed, want the %d that are still its own", w, n, mine)
		}
	})
}
