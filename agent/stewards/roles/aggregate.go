package roles

import (
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// gatherRules returns the rules of an aggregated role: those of the roles among all that its
// selectors match, directly or through other aggregated roles, each rule once. all is ordered
// by name, and so are the rules.
func gatherRules(role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	sources := map[string]*rbacv1.ClusterRole{}
	if err := addSources(sources, role, all); err != nil {
		return nil, err
	}
	var rules []rbacv1.PolicyRule
	for _, source := range all {
		if sources[source.Name] == nil || source.AggregationRule != nil {
			continue
		}
		for _, r := range source.Rules {
			if !containsRule(rules, r) {
				rules = append(rules, *r.DeepCopy())
			}
		}
	}
	return rules, nil
}

// addSources adds the roles that a role gathers, and those that they gather, to sources.
func addSources(sources map[string]*rbacv1.ClusterRole, role *rbacv1.ClusterRole, all []*rbacv1.ClusterRole) error {
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return fmt.Errorf("ClusterRole %s: aggregationRule.clusterRoleSelectors[%d]: %w", role.Name, i, err)
		}
		for _, source := range all {
			if sources[source.Name] != nil || !selector.Matches(labels.Set(source.Labels)) {
				continue
			}
			sources[source.Name] = source
			if source.AggregationRule == nil {
				continue
			}
			if err := addSources(sources, source, all); err != nil {
				return err
			}
		}
	}
	return nil
}

// sameRules reports whether two roles allow the same by the same rules, in whatever order.
func sameRules(a, b []rbacv1.PolicyRule) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(r rbacv1.PolicyRule) bool { return !containsRule(b, r) })
}

func containsRule(rules []rbacv1.PolicyRule, rule rbacv1.PolicyRule) bool {
	return slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) })
}
