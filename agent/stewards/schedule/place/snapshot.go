package place

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	kubevirtv1 "kubevirt.io/api/core/v1"

	machine "virtmesh/agent/vmi"
)

// Host is what placement knows of a host.
type Host struct {
	Name string
	// Labels, Taints and Cordoned are those of its Node object.
	Labels   map[string]string
	Taints   []corev1.Taint
	Cordoned bool
	// Problem says why the host takes no instance now ("dead", "not ready");
	// empty if it does.
	Problem string
	// KVM says that hardware virtualisation works there.
	KVM bool
	// CPUModels are the models its processor can run, beside those that
	// labels name.
	CPUModels []string
	// Emulator describes what the host can emulate for guests; nil if that is
	// not known.
	Emulator *machine.Emulator
	// Allocatable is the limit for the sum of the claims on the host.
	Allocatable machine.Resources
	// Images are the images it already has.
	Images []string
	// Pools is the room in its pools that can be used, as gossip.Facts has it; empty if it
	// is not known.
	Pools map[string]int64
	// Disks are its file systems, if the mesh counts what is promised there.
	Disks []Disk
	// Load is the share of its processors in use, from 0 to 1.
	Load float64
}

// Instance is a placed instance. It uses resources, and the affinity of other
// instances may refer to it.
type Instance struct {
	UID       string
	Namespace string
	Labels    map[string]string
	// Hosts are where it holds a claim: one host, or two while it migrates.
	Hosts     []string
	Resources machine.Resources
	// Affinity is the affinity of the instance itself. Its required
	// anti-affinity also keeps other instances away.
	Affinity *corev1.Affinity
}

// Snapshot is what is known of the mesh. It is kept up to date in small steps
// and is used by one goroutine at a time.
type Snapshot struct {
	hosts     []*hostState // sorted by name
	byName    map[string]*hostState
	uses      map[string]*use // by host, for known hosts and those with instances
	instances map[string]*instanceState
	byNS      map[string]map[string]*instanceState // namespace, uid
	// guarded are the instances with required anti-affinity, by the namespaces
	// whose instances they keep away. Those that select namespaces by label are
	// listed under AnyNamespace.
	guarded    map[string]map[string]*instanceState
	namespaces map[string]labels.Set
	topologies map[string]*topology // by topology key, of those used lately
	scratch    []candidate
}

// Prepared is a host in the form in which decisions read it. It never changes.
type Prepared struct {
	Host
	node      *corev1.Node // for the node affinity library, without the name: see Request.nodeOf
	cpuModels map[string]struct{}
	images    map[string]struct{}
	seed      uint64
}

// Prepare brings a host into the form in which decisions read it. That is most of the
// work of SetHost, and needs no Snapshot.
func Prepare(h Host) *Prepared {
	p := &Prepared{Host: h, seed: hashString(h.Name)}
	lbls := maps.Clone(h.Labels)
	if lbls == nil {
		lbls = map[string]string{}
	}
	if lbls[corev1.LabelHostname] == "" {
		lbls[corev1.LabelHostname] = h.Name
	}
	p.Labels = lbls
	p.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: lbls}}
	p.cpuModels, p.images = set(h.CPUModels), set(h.Images)
	return p
}

// WithLoad returns the host with another load.
func (p *Prepared) WithLoad(load float64) *Prepared {
	next := *p
	next.Load = load
	return &next
}

type hostState struct {
	Prepared
	*use
	free machine.Resources
}

// use is what instances use of a host.
type use struct {
	used      machine.Resources
	instances int
}

type instanceState struct {
	Instance
	labels labels.Set
	anti   []term
}

// AnyNamespace stands for all namespaces.
const AnyNamespace = "*"

// eachGuarded calls fn with the namespaces that the instance's required
// anti-affinity concerns.
func (is *instanceState) eachGuarded(fn func(namespace string)) {
	for i := range is.anti {
		if is.anti[i].nsSelector != nil {
			fn(AnyNamespace)
		}
		for ns := range is.anti[i].namespaces {
			fn(ns)
		}
	}
}

// NewSnapshot returns an empty snapshot.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		byName:     map[string]*hostState{},
		uses:       map[string]*use{},
		instances:  map[string]*instanceState{},
		byNS:       map[string]map[string]*instanceState{},
		guarded:    map[string]map[string]*instanceState{},
		namespaces: map[string]labels.Set{},
		topologies: map[string]*topology{},
	}
}

// SetHost adds or replaces a host. What instances use of it is kept.
func (s *Snapshot) SetHost(h Host) { s.SetPrepared(Prepare(h)) }

// SetPrepared is SetHost for a host that is prepared already.
func (s *Snapshot) SetPrepared(p *Prepared) {
	hs := &hostState{Prepared: *p, use: s.useOf(p.Name)}
	hs.free = p.Allocatable.Sub(hs.used)
	i, found := slices.BinarySearchFunc(s.hosts, p.Name, func(a *hostState, name string) int {
		return compare(a.Name, name)
	})
	if found {
		s.hosts[i] = hs
	} else {
		s.hosts = slices.Insert(s.hosts, i, hs)
	}
	s.forgetTopologies(s.byName[p.Name], hs)
	s.byName[p.Name] = hs
}

// useOf returns what instances use of a host, whether the host is known or not.
func (s *Snapshot) useOf(host string) *use {
	u := s.uses[host]
	if u == nil {
		u = &use{}
		s.uses[host] = u
	}
	return u
}

// RemoveHost removes a host. The snapshot keeps its instances.
func (s *Snapshot) RemoveHost(name string) {
	s.forgetTopologies(s.byName[name], nil)
	delete(s.byName, name)
	s.hosts = slices.DeleteFunc(s.hosts, func(h *hostState) bool { return h.Name == name })
	s.dropUse(name)
}

// dropUse forgets the use of a host that is not known and has no instances.
func (s *Snapshot) dropUse(host string) {
	if u := s.uses[host]; u != nil && u.instances == 0 && s.byName[host] == nil {
		delete(s.uses, host)
	}
}

// CountHosts returns how many hosts are known.
func (s *Snapshot) CountHosts() int { return len(s.hosts) }

// SetInstance adds or replaces a placed instance.
func (s *Snapshot) SetInstance(in Instance) {
	s.RemoveInstance(in.UID)
	is := &instanceState{Instance: in, labels: in.Labels}
	is.anti = existingAntiAffinity(in)
	s.instances[in.UID] = is
	if s.byNS[in.Namespace] == nil {
		s.byNS[in.Namespace] = map[string]*instanceState{}
	}
	s.byNS[in.Namespace][in.UID] = is
	is.eachGuarded(func(ns string) {
		if s.guarded[ns] == nil {
			s.guarded[ns] = map[string]*instanceState{}
		}
		s.guarded[ns][in.UID] = is
	})
	s.charge(is, machine.Resources.Add, 1)
	s.tally(is, 1)
}

// Instance returns a placed instance. It must not be changed.
func (s *Snapshot) Instance(uid string) (Instance, bool) {
	if is, ok := s.instances[uid]; ok {
		return is.Instance, true
	}
	return Instance{}, false
}

// RemoveInstance removes a placed instance and frees what it used.
func (s *Snapshot) RemoveInstance(uid string) {
	is, ok := s.instances[uid]
	if !ok {
		return
	}
	delete(s.instances, uid)
	is.eachGuarded(func(ns string) {
		delete(s.guarded[ns], uid)
		if len(s.guarded[ns]) == 0 {
			delete(s.guarded, ns)
		}
	})
	delete(s.byNS[is.Namespace], uid)
	if len(s.byNS[is.Namespace]) == 0 {
		delete(s.byNS, is.Namespace)
		s.forgetTallies(is.Namespace)
	}
	s.charge(is, machine.Resources.Sub, -1)
	s.tally(is, -1)
}

func (s *Snapshot) charge(is *instanceState, op func(machine.Resources, machine.Resources) machine.Resources, n int) {
	for _, name := range is.Hosts {
		u := s.useOf(name)
		u.used = op(u.used, is.Resources)
		u.instances += n
		if h := s.byName[name]; h != nil {
			h.free = h.Allocatable.Sub(u.used)
		}
		s.dropUse(name)
	}
}

// SetNamespace records the labels of a namespace, for affinity terms that
// select namespaces by label. Nil labels remove the namespace.
func (s *Snapshot) SetNamespace(name string, lbls map[string]string) {
	if lbls == nil {
		delete(s.namespaces, name)
		return
	}
	s.namespaces[name] = lbls
}

func (h *hostState) hasCPUModel(model string) bool {
	if _, ok := h.cpuModels[model]; ok {
		return true
	}
	return h.Labels[kubevirtv1.CPUModelLabel+model] == "true"
}

func set(names []string) map[string]struct{} {
	m := make(map[string]struct{}, len(names))
	for _, n := range names {
		m[n] = struct{}{}
	}
	return m
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// hashString is FNV-1a: the same on every host, and without allocation.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix spreads the bits of x (the finalizer of splitmix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
