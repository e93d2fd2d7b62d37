package place

import "k8s.io/apimachinery/pkg/labels"

// Limits of what a snapshot remembers, because tenants choose the topology keys
// and the selectors. What is forgotten is computed again when it is needed.
const (
	maxTopologies = 8
	maxTallies    = 8 // of a topology and a namespace
)

// topology is what a snapshot remembers of one topology key, for as long as no
// host gets another value of it.
type topology struct {
	// hosts are the names of the hosts in each domain; nil until they are needed.
	hosts map[string][]string
	// tallies are the counts of instances, by namespace and selector.
	tallies map[string]map[string]*tally
}

// tally counts the instances of a namespace that a selector matches. Domains
// without any are not in it.
type tally struct {
	selector labels.Selector
	domains  domains
}

func (s *Snapshot) topology(key string) *topology {
	t := s.topologies[key]
	if t == nil {
		if len(s.topologies) == maxTopologies {
			clear(s.topologies)
		}
		t = &topology{tallies: map[string]map[string]*tally{}}
		s.topologies[key] = t
	}
	return t
}

// forgetTopologies forgets the topologies in which two states of a host, of which either
// may be nil, are in different domains.
func (s *Snapshot) forgetTopologies(before, after *hostState) {
	for key := range s.topologies {
		v, had := before.domain(key)
		w, has := after.domain(key)
		if v != w || had != has {
			delete(s.topologies, key)
		}
	}
}

// domain returns the topology domain of a host; a host that is nil has none.
func (h *hostState) domain(key string) (value string, ok bool) {
	if h == nil {
		return "", false
	}
	value, ok = h.Labels[key]
	return value, ok
}

// hostsByDomain returns the names of the hosts in each domain of a topology key.
// The map must not be changed.
func (s *Snapshot) hostsByDomain(key string) map[string][]string {
	t := s.topology(key)
	if t.hosts == nil {
		t.hosts = map[string][]string{}
		for _, h := range s.hosts {
			if v, ok := h.domain(key); ok {
				t.hosts[v] = append(t.hosts[v], h.Name)
			}
		}
	}
	return t.hosts
}

// tallied returns how many instances of a namespace match in each domain. It
// remembers the count, and instances that come and go keep it up to date. The
// map is valid until the snapshot changes, and must not be changed.
func (s *Snapshot) tallied(namespace string, selector labels.Selector, key string) domains {
	// The selector of nothing is written like the selector of everything; and
	// counts are forgotten with the last instance of a namespace.
	if _, selectable := selector.Requirements(); !selectable || s.byNS[namespace] == nil {
		return nil
	}
	tallies := s.topology(key).tallies
	name := selector.String()
	if t := tallies[namespace][name]; t != nil {
		return t.domains
	}
	if len(tallies[namespace]) == maxTallies || tallies[namespace] == nil {
		tallies[namespace] = map[string]*tally{}
	}
	t := &tally{selector: selector, domains: domains{}}
	s.countIn(namespace, selector, key, "", t.domains)
	tallies[namespace][name] = t
	return t.domains
}

// tally adds n to the counts of an instance that is placed or removed.
func (s *Snapshot) tally(in *instanceState, n int) {
	for key, topology := range s.topologies {
		for _, t := range topology.tallies[in.Namespace] {
			if t.selector.Matches(in.labels) {
				s.eachDomain(in, key, func(v string) { t.domains.add(v, n) })
			}
		}
	}
}

// forgetTallies forgets the counts of a namespace that has no instances.
func (s *Snapshot) forgetTallies(namespace string) {
	for _, topology := range s.topologies {
		delete(topology.tallies, namespace)
	}
}
