package roles

import (
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// namespaceRoles are the roles for people in a namespace. admin, edit and view have no rules
// of their own: they gather those of the roles with their label, and a role that an
// administrator labels so adds to them.
func namespaceRoles() []*rbacv1.ClusterRole {
	return []*rbacv1.ClusterRole{
		aggregated(admin, ""), aggregated(edit, admin), aggregated(view, edit),
		clusterRole("system:aggregate-to-view", aggregatedTo(view), viewRules()...),
		clusterRole("system:aggregate-to-edit", aggregatedTo(edit), editRules()...),
		clusterRole("system:aggregate-to-admin", aggregatedTo(admin),
			rule("authorization.k8s.io", verbs("create"), "localsubjectaccessreviews"),
			rule(rbacv1.GroupName, everything(), "roles", "rolebindings"),
		),
	}
}

// aggregated makes a role that gathers its rules, and is itself gathered by another role
// unless that is empty.
func aggregated(name, by string) *rbacv1.ClusterRole {
	role := clusterRole(name, aggregatedTo(by))
	role.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: aggregatedTo(name)}}}
	return role
}

// aggregatedTo are the labels by which a role is gathered.
func aggregatedTo(name string) map[string]string {
	if name == "" {
		return nil
	}
	return map[string]string{aggregateTo + name: "true"}
}

// viewRules are those of Kubernetes' system:aggregate-to-view for what the mesh has, and the
// networks of Multus. Secrets are not among them: tokens of service accounts could be.
func viewRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("", reading(), "configmaps", "persistentvolumeclaims", "persistentvolumeclaims/status", "pods", "serviceaccounts", "services", "services/status"),
		rule("", reading(), "events", "limitranges", "namespaces/status", "pods/log", "pods/status", "resourcequotas", "resourcequotas/status"),
		// In a namespace this is about that namespace only.
		rule("", reading(), "namespaces"),
		rule("k8s.cni.cncf.io", reading(), "network-attachment-definitions"),
	}
}

// editRules are those of Kubernetes' system:aggregate-to-edit for what the mesh has. Who may
// change a namespace may not define networks in it: a definition may name any bridge that
// the hosts offer, and any VLAN on it.
func editRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		rule("", reading(), "secrets"),
		rule("", changing(), "configmaps", "events", "persistentvolumeclaims", "secrets", "serviceaccounts", "services"),
		rule("", verbs("create"), "serviceaccounts/token", "pods/eviction"),
		rule("", verbs("delete"), "pods"),
		rule("", verbs("impersonate"), "serviceaccounts"),
		rule("coordination.k8s.io", everything(), "leases"),
	}
}
