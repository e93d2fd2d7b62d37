package place

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// term selects instances, and the host label whose values are the topology
// domains.
type term struct {
	selector    labels.Selector
	namespaces  map[string]struct{}
	nsSelector  labels.Selector // nil: only namespaces
	topologyKey string
}

type weightedTerm struct {
	term
	weight int64 // negative to keep apart
}

func newTerm(t *corev1.PodAffinityTerm, namespace string, own labels.Set) (term, error) {
	sel, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
	if err != nil {
		return term{}, fmt.Errorf("labelSelector: %w", err)
	}
	for _, key := range t.MatchLabelKeys {
		if v, ok := own[key]; ok {
			sel = and(sel, key, v)
		}
	}
	if t.TopologyKey == "" {
		return term{}, fmt.Errorf("topologyKey is empty")
	}
	out := term{selector: sel, namespaces: set(t.Namespaces), topologyKey: t.TopologyKey}
	if t.NamespaceSelector != nil {
		if out.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			return term{}, fmt.Errorf("namespaceSelector: %w", err)
		}
	} else if len(t.Namespaces) == 0 {
		out.namespaces[namespace] = struct{}{}
	}
	return out, nil
}

func and(sel labels.Selector, key, value string) labels.Selector {
	own := labels.SelectorFromSet(labels.Set{key: value})
	reqs, _ := own.Requirements()
	return sel.Add(reqs...)
}

// selectsNamespace reports whether the term looks at instances of a namespace.
func (t *term) selectsNamespace(ns string, nsLabels labels.Set) bool {
	if _, ok := t.namespaces[ns]; ok {
		return true
	}
	return t.nsSelector != nil && t.nsSelector.Matches(nsLabels)
}

// addNamespaces adds the namespaces that the term looks at.
func (t *term) addNamespaces(names map[string]struct{}) {
	if t.nsSelector != nil {
		names[AnyNamespace] = struct{}{}
	}
	for ns := range t.namespaces {
		names[ns] = struct{}{}
	}
}

func (r *Request) setInstanceAffinity(a *corev1.Affinity) error {
	if a == nil {
		return nil
	}
	own := r.labelSet()
	if pa := a.PodAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			t, err := newTerm(&pa.RequiredDuringSchedulingIgnoredDuringExecution[i], r.Namespace, own)
			if err != nil {
				return fmt.Errorf("spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[%d].%w", i, err)
			}
			r.affinity = append(r.affinity, t)
		}
		if err := r.addWeighted(pa.PreferredDuringSchedulingIgnoredDuringExecution, 1, "podAffinity"); err != nil {
			return err
		}
	}
	if pa := a.PodAntiAffinity; pa != nil {
		for i := range pa.RequiredDuringSchedulingIgnoredDuringExecution {
			t, err := newTerm(&pa.RequiredDuringSchedulingIgnoredDuringExecution[i], r.Namespace, own)
			if err != nil {
				return fmt.Errorf("spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[%d].%w", i, err)
			}
			r.anti = append(r.anti, t)
		}
		return r.addWeighted(pa.PreferredDuringSchedulingIgnoredDuringExecution, -1, "podAntiAffinity")
	}
	return nil
}

func (r *Request) addWeighted(terms []corev1.WeightedPodAffinityTerm, sign int64, field string) error {
	for i := range terms {
		t, err := newTerm(&terms[i].PodAffinityTerm, r.Namespace, r.labelSet())
		if err != nil {
			return fmt.Errorf("spec.affinity.%s.preferredDuringSchedulingIgnoredDuringExecution[%d].podAffinityTerm.%w", field, i, err)
		}
		r.weighted = append(r.weighted, weightedTerm{t, sign * int64(terms[i].Weight)})
	}
	return nil
}

// existingAntiAffinity prepares the required anti-affinity of a placed
// instance. Terms that cannot be understood were refused when it was placed.
func existingAntiAffinity(in Instance) []term {
	if in.Affinity == nil || in.Affinity.PodAntiAffinity == nil {
		return nil
	}
	var out []term
	terms := in.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	for i := range terms {
		if t, err := newTerm(&terms[i], in.Namespace, in.Labels); err == nil {
			out = append(out, t)
		}
	}
	return out
}

// domains is the number of matching instances in each topology domain, by the
// value of the topology key.
type domains map[string]int

// add changes the number of a domain. A domain of none is not kept.
func (d domains) add(value string, n int) {
	if d[value] += n; d[value] == 0 {
		delete(d, value)
	}
}

// count returns the domains of a term, without the instance self.
func (s *Snapshot) count(t *term, self string) domains {
	if t.nsSelector == nil && len(t.namespaces) == 1 {
		for ns := range t.namespaces {
			return s.matching(ns, t.selector, t.topologyKey, self)
		}
	}
	d := domains{}
	for ns := range s.byNS {
		if t.selectsNamespace(ns, s.namespaces[ns]) {
			s.countIn(ns, t.selector, t.topologyKey, self, d)
		}
	}
	return d
}

// matching returns the domains of the instances of a namespace that a selector
// matches, without the instance self. They must not be changed.
func (s *Snapshot) matching(namespace string, selector labels.Selector, key, self string) domains {
	if _, placed := s.instances[self]; !placed {
		return s.tallied(namespace, selector, key)
	}
	d := domains{}
	s.countIn(namespace, selector, key, self, d)
	return d
}

// countIn adds the instances of a namespace that a selector matches to d.
func (s *Snapshot) countIn(namespace string, selector labels.Selector, key, self string, d domains) {
	for uid, in := range s.byNS[namespace] {
		if uid != self && selector.Matches(in.labels) {
			s.eachDomain(in, key, func(value string) { d.add(value, 1) })
		}
	}
}

// eachDomain calls fn with the value of key on every host the instance is on.
func (s *Snapshot) eachDomain(in *instanceState, key string, fn func(value string)) {
	for _, name := range in.Hosts {
		if h := s.byName[name]; h != nil {
			if v, ok := h.Labels[key]; ok {
				fn(v)
			}
		}
	}
}

// relations holds the effect of the placed instances on one request. It is
// computed once for a request.
type relations struct {
	affinity []domains // parallel to Request.affinity
	anti     []domains
	weighted []domains
	// forbidden are the domains that placed instances keep the request out
	// of, by topology key. It is a list because every host is held against all of it.
	forbidden []forbidden
	spread    []spreadState
}

// forbidden are the domains of one topology key.
type forbidden struct {
	key string
	domains
}

// relate computes the relations of a request. It returns nil if no placed
// instance affects the request, which is the common case.
func (s *Snapshot) relate(r *Request) *relations {
	guards := len(s.guarded[r.Namespace]) + len(s.guarded[AnyNamespace])
	if len(r.affinity)+len(r.anti)+len(r.weighted)+len(r.spread)+guards == 0 {
		return nil
	}
	rel := &relations{}
	for i := range r.affinity {
		rel.affinity = append(rel.affinity, s.count(&r.affinity[i], r.UID))
	}
	for i := range r.anti {
		rel.anti = append(rel.anti, s.count(&r.anti[i], r.UID))
	}
	for i := range r.weighted {
		rel.weighted = append(rel.weighted, s.count(&r.weighted[i].term, r.UID))
	}
	for _, ns := range []string{r.Namespace, AnyNamespace} {
		for uid, in := range s.guarded[ns] {
			if uid != r.UID {
				s.forbid(rel, r, in)
			}
		}
	}
	rel.spread = s.spreadStates(r)
	return rel
}

// forbid adds the domains that the anti-affinity of one placed instance keeps
// the request out of.
func (s *Snapshot) forbid(rel *relations, r *Request, in *instanceState) {
	for i := range in.anti {
		t := &in.anti[i]
		if !t.selectsNamespace(r.Namespace, s.namespaces[r.Namespace]) || !t.selector.Matches(r.labelSet()) {
			continue
		}
		d := rel.forbiddenBy(t.topologyKey)
		s.eachDomain(in, t.topologyKey, func(v string) { d.add(v, 1) })
	}
}

// forbiddenBy returns the forbidden domains of a topology key, to add to.
func (rel *relations) forbiddenBy(key string) domains {
	for i := range rel.forbidden {
		if rel.forbidden[i].key == key {
			return rel.forbidden[i].domains
		}
	}
	d := domains{}
	rel.forbidden = append(rel.forbidden, forbidden{key, d})
	return d
}

// admits returns the reason why the relations exclude the host, or "" if they
// do not.
func (rel *relations) admits(s *Snapshot, r *Request, h *hostState) string {
	for i := range rel.forbidden {
		f := &rel.forbidden[i]
		if v, ok := h.Labels[f.key]; ok && f.domains[v] > 0 {
			return "kept free by the anti-affinity of running instances"
		}
	}
	for i := range r.anti {
		if v, ok := h.Labels[r.anti[i].topologyKey]; ok && rel.anti[i][v] > 0 {
			return "didn't match anti-affinity rules"
		}
	}
	for i := range r.affinity {
		t := &r.affinity[i]
		v, ok := h.Labels[t.topologyKey]
		if !ok {
			return "didn't match affinity rules"
		}
		if rel.affinity[i][v] > 0 {
			continue
		}
		// The first instance of a group with affinity to itself may start
		// anywhere.
		first := len(rel.affinity[i]) == 0 && t.selectsNamespace(r.Namespace, s.namespaces[r.Namespace]) && t.selector.Matches(r.labelSet())
		if !first {
			return "didn't match affinity rules"
		}
	}
	for i := range rel.spread {
		if reason := rel.spread[i].admits(h); reason != "" {
			return reason
		}
	}
	return ""
}
