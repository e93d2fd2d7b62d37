package schedule

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
	machine "virtmesh/agent/vmi"
	"virtmesh/gossip"
)

// View is what this host knows of the mesh for placement: a snapshot kept up to
// date from facts, Node objects, namespaces, instances and claims. All loops of
// one host that place instances (this package, migration) share one View, so
// that each sees at once what the other has just decided.
type View struct {
	store      objects.Store
	facts      Facts
	claims     *claims.Cache
	nodes      *objects.Informer[*corev1.Node]
	namespaces *objects.Informer[*corev1.Namespace]
	vmis       *objects.Informer[*kubevirtv1.VirtualMachineInstance]

	mu       sync.Mutex
	snapshot *place.Snapshot
	hosts    map[string]place.Host
	sources  map[string]source // what hosts were described from
	assumed  map[string]string // hosts of decisions whose claim is not seen yet, by uid
	watchers map[int]func()
	nextID   int
	// seen is the revision up to which every claim is in the snapshot, guards
	// are the guards as of then.
	seen   uint64
	guards map[string]uint64
	// unread are the instances whose informer is behind: it does not show the
	// version of the object yet that was written with the claim.
	unread map[string]claims.Instance
}

// NewView returns a view that is empty until Run fills it and keeps it up to
// date.
func NewView(store objects.Store, cache *objects.Cache, c *claims.Cache, facts Facts) *View {
	return &View{
		store: store, facts: facts, claims: c,
		nodes:      objects.For[*corev1.Node](cache),
		namespaces: objects.For[*corev1.Namespace](cache),
		vmis:       objects.For[*kubevirtv1.VirtualMachineInstance](cache),
		snapshot:   place.NewSnapshot(),
		hosts:      map[string]place.Host{},
		sources:    map[string]source{},
		assumed:    map[string]string{},
		guards:     map[string]uint64{},
		unread:     map[string]claims.Instance{},
		watchers:   map[int]func(){},
	}
}

// Run keeps the view up to date until ctx ends. It calls ready once everything
// that exists is in it.
func (v *View) Run(ctx context.Context, ready func()) {
	for _, s := range []interface{ WaitForSync(context.Context) error }{v.claims, v.nodes, v.namespaces, v.vmis} {
		if s.WaitForSync(ctx) != nil {
			return
		}
	}
	defer v.claims.AddHandler(v.onClaim)()
	defer v.nodes.AddHandler(func(c objects.Change[*corev1.Node]) {
		if c.New != nil {
			v.refreshHost(c.New.Name)
		} else {
			v.refreshHost(c.Old.Name)
		}
	})()
	defer v.namespaces.AddHandler(v.onNamespace)()
	defer v.vmis.AddHandler(v.onInstance)()
	news := make(chan struct{}, 1)
	defer v.facts.Subscribe(func() {
		select {
		case news <- struct{}{}:
		default:
		}
	})()
	v.refreshHosts()
	ready()
	v.followFacts(ctx, news)
}

// factsDelay is the least time between two readings of the facts: in a large
// mesh the facts of some host change all the time, and each reading covers all
// hosts.
const factsDelay = 200 * time.Millisecond

// followFacts reads the facts when there is news, until ctx ends.
func (v *View) followFacts(ctx context.Context, news <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-news:
			v.refreshHosts()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(factsDelay):
		}
	}
}

// OnRoom calls fn whenever an instance that fitted nowhere might fit now,
// until cancel is called. fn must not block.
func (v *View) OnRoom(fn func()) (cancel func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	id := v.nextID
	v.nextID++
	v.watchers[id] = fn
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.watchers, id)
	}
}

// CountHosts returns how many hosts the view knows, whether they can take an instance
// or not.
func (v *View) CountHosts() int {
	v.mu.Lock()
	defer v.mu.Unlock()
	return len(v.snapshot.HostNames())
}

// tellRoom calls the functions that were passed to OnRoom. The caller holds
// v.mu.
func (v *View) tellRoom() {
	for _, fn := range v.watchers {
		fn()
	}
}

func (v *View) onNamespace(c objects.Change[*corev1.Namespace]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.New == nil {
		v.snapshot.SetNamespace(c.Old.Name, nil)
		return
	}
	lbls := c.New.Labels
	if lbls == nil {
		lbls = map[string]string{}
	}
	v.snapshot.SetNamespace(c.New.Name, lbls)
}

// refreshHosts reads the facts of all hosts again.
func (v *View) refreshHosts() {
	members := map[string]gossip.Member{}
	for _, m := range v.facts.Members() {
		members[m.Name] = m
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, name := range v.snapshot.HostNames() {
		if _, ok := members[name]; !ok {
			v.setHost(name, nil)
		}
	}
	for name, m := range members {
		v.setHost(name, &m)
	}
}

// refreshHost reads what concerns one host again.
func (v *View) refreshHost(name string) {
	var member *gossip.Member
	for _, m := range v.facts.Members() {
		if m.Name == name {
			member = &m
			break
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.setHost(name, member)
}

// setHost updates one host; a nil member is one that gossip does not know. The
// caller holds v.mu.
func (v *View) setHost(name string, member *gossip.Member) {
	capacity, published := v.claims.Capacity(name)
	node, _ := v.nodes.Get(objects.Key{Name: name})
	if !published && member == nil && node == nil {
		if _, known := v.hosts[name]; known {
			delete(v.hosts, name)
			delete(v.sources, name)
			v.snapshot.RemoveHost(name)
		}
		return
	}
	from := sourceOf(member, node, capacity, published)
	if last, ok := v.sources[name]; ok && reflect.DeepEqual(last, from) {
		return
	}
	v.sources[name] = from
	h := describe(name, member, node, capacity, published)
	old, known := v.hosts[name]
	if known && reflect.DeepEqual(old, h) {
		return
	}
	v.hosts[name] = h
	v.snapshot.SetHost(h)
	if !known || admitsMore(old, h) {
		v.tellRoom()
	}
}

// source is the data from which a host is described. A description reads a
// hundred labels and more, while comparing two sources costs a fraction of
// that. In a large mesh only a few hosts have changed at a time, so most
// descriptions can be kept.
type source struct {
	known     bool // gossip knows the member
	state     gossip.State
	facts     gossip.Facts
	node      *corev1.Node
	capacity  claims.Capacity
	published bool
}

func sourceOf(member *gossip.Member, node *corev1.Node, capacity claims.Capacity, published bool) source {
	s := source{node: node, capacity: capacity, published: published}
	if member != nil {
		s.known, s.state, s.facts = true, member.State, member.Facts
	}
	return s
}

// describe builds the description of a host from its facts, Node object and
// capacity.
func describe(name string, member *gossip.Member, node *corev1.Node, capacity claims.Capacity, published bool) place.Host {
	h := place.Host{Name: name, Allocatable: capacity.Allocatable, Labels: map[string]string{}}
	if member != nil {
		f := member.Facts
		h.KVM, h.CPUModels, h.Images, h.Load = f.KVM, f.CPUModels, f.Images, f.Load
		h.Cordoned = f.Unschedulable
		if f.Zone != "" {
			h.Labels[corev1.LabelTopologyZone] = f.Zone
		}
		maps.Copy(h.Labels, f.Labels)
	}
	if node != nil {
		maps.Copy(h.Labels, node.Labels)
		h.Taints = slices.DeleteFunc(slices.Clone(node.Spec.Taints), func(t corev1.Taint) bool {
			return t.Key == corev1.TaintNodeUnschedulable // Cordoned covers it
		})
		h.Cordoned = node.Spec.Unschedulable
	}
	if emulator, known := machine.EmulatorOf(h.Labels); known {
		h.Emulator = &emulator
	}
	switch {
	case member == nil || !member.State.Live():
		h.Problem = "not alive"
	case member.State == gossip.Suspect:
		h.Problem = "not answering"
	case !published:
		h.Problem = "without published capacity"
	case node != nil && node.DeletionTimestamp != nil:
		h.Problem = "leaving"
	case h.Labels[kubevirtv1.NodeSchedulable] == "false":
		h.Problem = "not schedulable"
	}
	return h
}

// admitsMore reports whether a host may now take an instance that it did not
// take before. A change of load or images, or a loss of capacity, never has
// this effect.
func admitsMore(old, now place.Host) bool {
	if now.Problem != "" {
		return false
	}
	return old.Problem != "" || old.Cordoned && !now.Cordoned || !old.KVM && now.KVM ||
		!maps.Equal(old.Labels, now.Labels) || !reflect.DeepEqual(old.Taints, now.Taints) ||
		!slices.Equal(old.CPUModels, now.CPUModels) || len(old.Allocatable.Lacking(now.Allocatable)) > 0
}
