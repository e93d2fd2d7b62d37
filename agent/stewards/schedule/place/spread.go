package place

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// spreadRule is a topology spread constraint.
type spreadRule struct {
	selector   labels.Selector
	key        string
	maxSkew    int
	minDomains int
	hard       bool
	// ignoreAffinity also counts hosts that the node affinity excludes.
	// honorTaints leaves out hosts with taints that are not tolerated.
	ignoreAffinity bool
	honorTaints    bool
	matchesSelf    bool
}

func newSpreadRules(constraints []corev1.TopologySpreadConstraint, own labels.Set) ([]spreadRule, error) {
	var out []spreadRule
	for i := range constraints {
		c := &constraints[i]
		sel, err := metav1.LabelSelectorAsSelector(c.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("spec.topologySpreadConstraints[%d].labelSelector: %w", i, err)
		}
		if c.MaxSkew < 1 || c.TopologyKey == "" {
			return nil, fmt.Errorf("spec.topologySpreadConstraints[%d]: want maxSkew of at least 1 and a topologyKey", i)
		}
		for _, key := range c.MatchLabelKeys {
			if v, ok := own[key]; ok {
				sel = and(sel, key, v)
			}
		}
		rule := spreadRule{
			selector: sel, key: c.TopologyKey, maxSkew: int(c.MaxSkew),
			hard:           c.WhenUnsatisfiable != corev1.ScheduleAnyway,
			ignoreAffinity: c.NodeAffinityPolicy != nil && *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyIgnore,
			honorTaints:    c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
			matchesSelf:    sel.Matches(own),
		}
		if c.MinDomains != nil {
			rule.minDomains = int(*c.MinDomains)
		}
		out = append(out, rule)
	}
	return out, nil
}

// spreadState is a rule with the present count of instances in each domain.
type spreadState struct {
	*spreadRule
	counts domains
	least  int
}

func (s *Snapshot) spreadStates(r *Request) []spreadState {
	var out []spreadState
	for i := range r.spread {
		rule := &r.spread[i]
		st := spreadState{spreadRule: rule, counts: domains{}}
		matching := s.matching(r.Namespace, rule.selector, rule.key, r.UID)
		for v, hosts := range s.hostsByDomain(rule.key) {
			// One host makes a domain count, and there may be thousands in each.
			if slices.ContainsFunc(hosts, func(name string) bool { return r.countsFor(rule, s.byName[name]) }) {
				st.counts[v] = matching[v]
			}
		}
		st.least = st.minimum()
		out = append(out, st)
	}
	return out
}

// countsFor reports whether a rule counts the domain of a host.
func (r *Request) countsFor(rule *spreadRule, h *hostState) bool {
	if !rule.ignoreAffinity && r.hasRequired {
		if ok, _ := r.required.Match(r.nodeOf(h)); !ok {
			return false
		}
	}
	return !rule.honorTaints || r.untolerated(h) == nil
}

func (st *spreadState) minimum() int {
	if len(st.counts) < st.minDomains {
		return 0
	}
	first, least := true, 0
	for _, n := range st.counts {
		if first || n < least {
			first, least = false, n
		}
	}
	return least
}

// skew returns how many more instances the host's domain would have than the
// emptiest domain.
func (st *spreadState) skew(h *hostState) (int, bool) {
	v, ok := h.Labels[st.key]
	if !ok {
		return 0, false
	}
	n := st.counts[v]
	if st.matchesSelf {
		n++
	}
	return n - st.least, true
}

func (st *spreadState) admits(h *hostState) string {
	if !st.hard {
		return ""
	}
	skew, ok := st.skew(h)
	if !ok {
		return "didn't match topology spread constraints (missing label " + st.key + ")"
	}
	if skew > st.maxSkew {
		return "didn't match topology spread constraints"
	}
	return ""
}
