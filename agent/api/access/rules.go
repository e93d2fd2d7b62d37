package access

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// allows reports whether a rule lets a request through.
//
// A rule with resourceNames never matches a request without a name, such as a create or the
// deletion of a collection. A list or watch with the field selector metadata.name has that name.
func allows(rule *rbacv1.PolicyRule, a authorizer.Attributes) bool {
	switch {
	case !names(rule.Verbs, a.GetVerb()):
		return false
	case !a.IsResourceRequest():
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return matchesPath(pattern, a.GetPath()) })
	case !names(rule.APIGroups, a.GetAPIGroup()):
		return false
	case len(rule.ResourceNames) > 0 && !slices.Contains(rule.ResourceNames, a.GetName()):
		return false
	}
	return namesResource(rule.Resources, a.GetResource(), a.GetSubresource())
}

// forAll stands for all verbs, API groups or resources: rbacv1.VerbAll, APIGroupAll and ResourceAll.
const forAll = rbacv1.VerbAll

// names reports whether a list has a word, or the one that stands for all.
func names(list []string, word string) bool {
	return slices.Contains(list, forAll) || slices.Contains(list, word)
}

// namesResource reports whether a list of resources has a resource or subresource. The name of
// a resource does not include its subresources.
func namesResource(list []string, resource, subresource string) bool {
	if subresource == "" {
		return names(list, resource)
	}
	return names(list, resource+"/"+subresource) || slices.Contains(list, "*/"+subresource)
}

// matchesPath reports whether a path that is no resource matches a pattern, which may end in *.
func matchesPath(pattern, path string) bool {
	return pattern == path || strings.HasSuffix(pattern, "*") && strings.HasPrefix(path, strings.TrimRight(pattern, "*"))
}
