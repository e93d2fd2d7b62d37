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

// count returns the domains of a term.
func (s *Snapshot) count(t *term, self string) domains {
	d := domains{}
	add := func(ns string) {
		for uid, in := range s.byNS[ns] {
			if uid != self && t.selector.Matches(in.labels) {
				s.eachDomain(in, t.topologyKey, func(value string) { d[value]++ })
			}
		}
	}
	if t.nsSelector == nil {
		for ns := range t.namespaces {
			add(ns)
		}
		return d
	}
	for ns := range s.byNS {
		if t.selectsNamespace(ns, s.namespaces[ns]) {
			add(ns)
		}
	}
	return d
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
	// of: topology key, value.
	forbidden map[string]domains
	spread    []spreadState
}

// relate computes the relations of a request. It returns nil if no placed
// instance affects the request, which is the common case.
func (s *Snapshot) relate(r *Request) *relations {
	guards := len(s.guarded[r.Namespace]) + len(s.guarded[AnyNamespace])
	if len(r.affinity)+len(r.anti)+len(r.weighted)+len(r.spread)+guards == 0 {
		return nil
	}
	rel := &relations{forbidden: map[string]domains{}}
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
		if rel.forbidden[t.topologyKey] == nil {
			rel.forbidden[t.topologyKey] = domains{}
		}
		s.eachDomain(in, t.topologyKey, func(v string) { rel.forbidden[t.topologyKey][v]++ })
	}
}

// admits returns the reason why the relations exclude the host, or "" if they
// do not.
func (rel *relations) admits(s *Snapshot, r *Request, h *hostState) string {
	for key, d := range rel.forbidden {
		if v, ok := h.Labels[key]; ok && d[v] > 0 {
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
