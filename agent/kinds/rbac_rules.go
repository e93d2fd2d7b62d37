package kinds

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// fieldErrors shortens the signatures of the registrations.
type fieldErrors = field.ErrorList

// The rules are those of Kubernetes (pkg/apis/rbac/validation), with the same fields in
// the errors, so that what a cluster takes is taken here, and what it refuses is refused.

func validateRole(r *rbacv1.Role) field.ErrorList {
	return validatePolicy(r.Rules, true)
}

func validateClusterRole(r *rbacv1.ClusterRole) field.ErrorList {
	errs := validatePolicy(r.Rules, false)
	if r.AggregationRule == nil {
		return errs
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(r.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(path, "an aggregationRule needs at least one selector"))
	}
	for i := range r.AggregationRule.ClusterRoleSelectors {
		selector := &r.AggregationRule.ClusterRoleSelectors[i]
		invalid := metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, path.Index(i))
		errs = append(errs, invalid...)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil && len(invalid) == 0 {
			errs = append(errs, field.Invalid(path.Index(i), selector, err.Error()))
		}
	}
	return errs
}

// maxCombinations bounds how many rights a role has, each a verb on a resource, an object or a
// URL. Whoever checks that a user holds the rights that he gives takes them one by one, so that
// without a bound a short role would take all the memory of a host. All that Kubernetes' and
// KubeVirt's roles give are some thousand.
const maxCombinations = 20_000

// combinationsOf returns how many rights rules give, or a number above maxCombinations if they are more.
func combinationsOf(rules []rbacv1.PolicyRule) int {
	total := 0
	for _, rule := range rules {
		about := 1
		for _, n := range []int{len(rule.APIGroups), len(rule.Resources), max(1, len(rule.ResourceNames)), len(rule.Verbs)} {
			about = min(about*n, maxCombinations+1) // each factor is bounded by the length of a request
		}
		total += about + len(rule.NonResourceURLs)*len(rule.Verbs)
		if total > maxCombinations {
			break
		}
	}
	return total
}

// validatePolicy checks the rules of a role; those of a Role are about its namespace.
func validatePolicy(rules []rbacv1.PolicyRule, namespaced bool) field.ErrorList {
	var errs field.ErrorList
	if combinationsOf(rules) > maxCombinations {
		return field.ErrorList{field.TooMany(field.NewPath("rules"), maxCombinations+1, maxCombinations)}
	}
	for i, rule := range rules {
		path := field.NewPath("rules").Index(i)
		if len(rule.Verbs) == 0 {
			errs = append(errs, field.Required(path.Child("verbs"), "a rule needs at least one verb"))
		}
		if len(rule.NonResourceURLs) > 0 {
			errs = append(errs, validateURLRule(rule, namespaced, path.Child("nonResourceURLs"))...)
			continue
		}
		if len(rule.APIGroups) == 0 {
			errs = append(errs, field.Required(path.Child("apiGroups"), "a rule about resources needs at least one API group"))
		}
		if len(rule.Resources) == 0 {
			errs = append(errs, field.Required(path.Child("resources"), "a rule about resources needs at least one of them"))
		}
		if len(rule.ResourceNames) > 0 && len(rule.Resources) > 1 {
			errs = append(errs, field.Required(path.Child("resourceNames"), "a rule with names of objects can have one resource only"))
		}
	}
	return errs
}

func validateURLRule(rule rbacv1.PolicyRule, namespaced bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if namespaced {
		errs = append(errs, field.Invalid(path, rule.NonResourceURLs, "the rules of a namespace cannot be about non-resource URLs"))
	}
	if len(rule.APIGroups) > 0 || len(rule.Resources) > 0 || len(rule.ResourceNames) > 0 {
		errs = append(errs, field.Invalid(path, rule.NonResourceURLs, "a rule cannot be about both resources and non-resource URLs"))
	}
	return errs
}

func validateRoleBinding(b *rbacv1.RoleBinding) field.ErrorList {
	return validateBinding(b.RoleRef, b.Subjects, true)
}

func validateClusterRoleBinding(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	return validateBinding(b.RoleRef, b.Subjects, false)
}

func validateRoleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	return append(validateRoleBinding(b), keepRoleRef(b.RoleRef, old.RoleRef)...)
}

func validateClusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	return append(validateClusterRoleBinding(b), keepRoleRef(b.RoleRef, old.RoleRef)...)
}

// keepRoleRef refuses another role: who may change the subjects of a binding could hand out
// any role otherwise. The words are Kubernetes'; clients look for them.
func keepRoleRef(role, old rbacv1.RoleRef) field.ErrorList {
	if role == old {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("roleRef"), role, "cannot change roleRef")}
}

// validateBinding checks a RoleBinding, or a ClusterRoleBinding if namespaced is false.
func validateBinding(role rbacv1.RoleRef, subjects []rbacv1.Subject, namespaced bool) field.ErrorList {
	path := field.NewPath("roleRef")
	errs := checkOneOf(path.Child("apiGroup"), role.APIGroup, []string{rbacv1.GroupName})
	roles := []string{clusterRoleName}
	if namespaced {
		roles = []string{roleName, clusterRoleName}
	}
	errs = append(errs, checkOneOf(path.Child("kind"), role.Kind, roles)...)
	if role.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	for _, msg := range validateAccessName(role.Name, false) {
		errs = append(errs, field.Invalid(path.Child("name"), role.Name, msg))
	}
	for i, subject := range subjects {
		errs = append(errs, validateSubject(subject, namespaced, field.NewPath("subjects").Index(i))...)
	}
	return errs
}

func validateSubject(s rbacv1.Subject, namespaced bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	switch s.Kind {
	case rbacv1.ServiceAccountKind:
		if s.Name != "" {
			for _, msg := range validation.ValidateServiceAccountName(s.Name, false) {
				errs = append(errs, field.Invalid(path.Child("name"), s.Name, msg))
			}
		}
		errs = append(errs, checkOneOf(path.Child("apiGroup"), s.APIGroup, []string{""})...)
		if !namespaced && s.Namespace == "" {
			errs = append(errs, field.Required(path.Child("namespace"), "the namespace of the service account"))
		}
	case rbacv1.UserKind, rbacv1.GroupKind:
		errs = append(errs, checkOneOf(path.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName})...)
	default:
		known := []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}
		errs = append(errs, field.NotSupported(path.Child("kind"), s.Kind, known))
	}
	return errs
}

// namesOfSubjects lists the subjects of a kind as kubectl prints them.
func namesOfSubjects(subjects []rbacv1.Subject, kind string, name func(rbacv1.Subject) string) string {
	var names []string
	for _, s := range subjects {
		if s.Kind == kind {
			names = append(names, name(s))
		}
	}
	return strings.Join(names, ", ")
}
