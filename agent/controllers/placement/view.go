package placement

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/objects/claims"
	"virtmesh/agent/placement"
	"virtmesh/gossip"
)

// View is what this host knows of the mesh for placement: a snapshot kept up
// to date from facts, Node objects, namespaces, instances and claims. Whoever
// places instances on one host (this package, migration) shares one View, so
// that what one has just decided the other sees at once.
type View struct {
	facts      Facts
	claims     *claims.Cache
	nodes      *objects.Informer[*corev1.Node]
	namespaces *objects.Informer[*corev1.Namespace]
	vmis       *objects.Informer[*kubevirtv1.VirtualMachineInstance]

	mu       sync.Mutex
	snapshot *placement.Snapshot
	hosts    map[string]placement.Host
	assumed  map[string]struct{} // uids of decisions whose claim is not seen yet
	watchers map[int]func()
	nextID   int
}

// NewView returns a view that follows nothing yet; Run makes it.
func NewView(cache *objects.Cache, c *claims.Cache, facts Facts) *View {
	return &View{
		facts: facts, claims: c,
		nodes:      objects.For[*corev1.Node](cache),
		namespaces: objects.For[*corev1.Namespace](cache),
		vmis:       objects.For[*kubevirtv1.VirtualMachineInstance](cache),
		snapshot:   placement.NewSnapshot(),
		hosts:      map[string]placement.Host{},
		assumed:    map[string]struct{}{},
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
// mesh some host always has news, and each reading looks at all.
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

// Decide chooses a host and, if it finds one, assumes that the instance is
// there until its claim is seen or Forget is called.
func (v *View) Decide(r *placement.Request) (placement.Decision, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.snapshot.Place(r)
	if err == nil {
		v.snapshot.SetInstance(placement.Instance{
			UID: r.UID, Namespace: r.Namespace, Labels: r.Labels, Hosts: []string{d.Host}, Resources: r.Resources,
		})
		v.assumed[r.UID] = struct{}{}
	}
	return d, err
}

// Forget takes back what Decide assumed, if no claim has followed.
func (v *View) Forget(uid string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, ok := v.assumed[uid]; ok {
		delete(v.assumed, uid)
		v.snapshot.RemoveInstance(uid)
	}
}

// Choose ranks the hosts for a request without assuming anything, best first:
// for an instance that has a claim and looks for another host.
func (v *View) Choose(r *placement.Request) ([]string, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	d, err := v.snapshot.Place(r)
	if err != nil {
		return nil, err
	}
	return append([]string{d.Host}, d.Next...), nil
}

// Check returns why a host does not suit the request; nil if it does.
func (v *View) Check(r *placement.Request, host string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.snapshot.Check(r, host)
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

// tellRoom calls the functions given to OnRoom. The caller holds v.mu.
func (v *View) tellRoom() {
	for _, fn := range v.watchers {
		fn()
	}
}

// onClaim follows the claims: capacities of hosts and instances on them.
func (v *View) onClaim(ev claims.Event) {
	switch {
	case ev.Capacity != nil && ev.Capacity.New != nil:
		v.refreshHost(ev.Capacity.New.Host)
	case ev.Capacity != nil:
		v.refreshHost(ev.Capacity.Old.Host)
	case ev.Instance != nil:
		v.mu.Lock()
		defer v.mu.Unlock()
		if in := ev.Instance.New; in != nil {
			v.setInstance(*in)
			return
		}
		delete(v.assumed, string(ev.Instance.Old.UID))
		v.snapshot.RemoveInstance(string(ev.Instance.Old.UID))
		v.tellRoom()
	}
}

// setInstance records a claimed instance, with what its object says beside.
// The caller holds v.mu.
func (v *View) setInstance(in claims.Instance) {
	delete(v.assumed, string(in.UID))
	placed := placement.Instance{UID: string(in.UID), Namespace: in.Namespace, Hosts: in.Hosts(), Resources: in.Resources}
	if vmi, ok := v.vmis.Get(in.Key()); ok && vmi.UID == in.UID {
		placed.Labels, placed.Affinity = vmi.Labels, vmi.Spec.Affinity
	}
	v.snapshot.SetInstance(placed)
}

// onInstance follows the labels and affinities of instances with a claim.
func (v *View) onInstance(c objects.Change[*kubevirtv1.VirtualMachineInstance]) {
	if c.New == nil {
		return
	}
	if c.Old != nil && maps.Equal(c.Old.Labels, c.New.Labels) && reflect.DeepEqual(c.Old.Spec.Affinity, c.New.Spec.Affinity) {
		return
	}
	if in, ok := v.claims.Instance(c.New.UID); ok {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.setInstance(in)
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

// refreshHosts reads all facts again.
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
			v.snapshot.RemoveHost(name)
		}
		return
	}
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

// describe joins what facts, Node object and capacity say of a host.
func describe(name string, member *gossip.Member, node *corev1.Node, capacity claims.Capacity, published bool) placement.Host {
	h := placement.Host{Name: name, Allocatable: capacity.Allocatable, Labels: map[string]string{}}
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
			return t.Key == corev1.TaintNodeUnschedulable // said by Cordoned
		})
		h.Cordoned = node.Spec.Unschedulable
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

// admitsMore reports whether a host may take an instance now that it did not
// take before. Load, images and less of something never do that.
func admitsMore(old, now placement.Host) bool {
	if now.Problem != "" {
		return false
	}
	return old.Problem != "" || old.Cordoned && !now.Cordoned || !old.KVM && now.KVM ||
		!maps.Equal(old.Labels, now.Labels) || !reflect.DeepEqual(old.Taints, now.Taints) ||
		!slices.Equal(old.CPUModels, now.CPUModels) || len(old.Allocatable.Lacking(now.Allocatable)) > 0
}
