package schedule

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	kubevirtv1 "kubevirt.io/api/core/v1"

	"virtmesh/agent/claims"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/schedule/place"
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

	// stale are the hosts to read again, lines those that were read. Only the
	// goroutine of Run uses lines.
	stale *stale
	lines map[string]*line

	nodeMu    sync.Mutex
	described map[string]*node // by host, of those with a Node

	mu       sync.Mutex
	snapshot *place.Snapshot
	assumed  map[string]string // hosts of decisions whose claim is not seen yet, by uid
	watchers map[int]func(diskOnly bool)
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
		stale:      newStale(),
		lines:      map[string]*line{},
		described:  map[string]*node{},
		assumed:    map[string]string{},
		guards:     map[string]uint64{},
		unread:     map[string]claims.Instance{},
		watchers:   map[int]func(diskOnly bool){},
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
	defer v.nodes.AddHandler(v.onNode)()
	defer v.namespaces.AddHandler(v.onNamespace)()
	defer v.vmis.AddHandler(v.onInstance)()
	defer v.facts.Subscribe(v.stale.note)()
	v.stale.note("")
	v.refreshHosts()
	ready()
	v.followHosts(ctx)
}

// OnRoom calls fn whenever an instance that fitted nowhere might fit now,
// until cancel is called. With diskOnly, that is so only for one that lacked room
// on disk. fn must not block.
func (v *View) OnRoom(fn func(diskOnly bool)) (cancel func()) {
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
	return v.snapshot.CountHosts()
}

// tellRoom calls the functions that were passed to OnRoom. The caller holds
// v.mu.
func (v *View) tellRoom(diskOnly bool) {
	for _, fn := range v.watchers {
		fn(diskOnly)
	}
}

func (v *View) onNamespace(c objects.Change[*corev1.Namespace]) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if c.New == nil {
		v.snapshot.SetNamespace(c.Key.Name, nil)
		return
	}
	lbls := c.New.Labels
	if lbls == nil {
		lbls = map[string]string{}
	}
	v.snapshot.SetNamespace(c.New.Name, lbls)
}
