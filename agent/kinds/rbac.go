package kinds

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"virtmesh/agent/level"
)

// The kinds of roles and bindings, as RoleRef.Kind names them.
const (
	roleName        = "Role"
	clusterRoleName = "ClusterRole"
)

func roleKind() *Kind {
	type role = rbacv1.Role
	return &Kind{
		GVK: rbac(roleName), Resource: "roles", Singular: "role", Namespaced: true, FeatureLevel: level.Access,
		Object: &role{}, List: &rbacv1.RoleList{},
		Support:        "works",
		Writers:        Writers{Spec: users},
		ValidateName:   validateAccessName,
		Validate:       validateWith(validateRole),
		ValidateUpdate: validateUpdateWith(func(r, _ *role) fieldErrors { return validateRole(r) }),
	}
}

func clusterRoleKind() *Kind {
	type role = rbacv1.ClusterRole
	return &Kind{
		GVK: rbac(clusterRoleName), Resource: "clusterroles", Singular: "clusterrole", FeatureLevel: level.Access,
		Object: &role{}, List: &rbacv1.ClusterRoleList{},
		Support:        "works, with `aggregationRule`. The roles of Kubernetes, KubeVirt and CDI are there from the start; see [operate.md](operate.md#who-may-do-what)",
		Writers:        Writers{Spec: "users; stewards/roles those that are there from the start, and the rules of aggregated ones"},
		ValidateName:   validateAccessName,
		Validate:       validateWith(validateClusterRole),
		ValidateUpdate: validateUpdateWith(func(r, _ *role) fieldErrors { return validateClusterRole(r) }),
	}
}

func roleBindingKind() *Kind {
	type binding = rbacv1.RoleBinding
	return &Kind{
		GVK: rbac("RoleBinding"), Resource: "rolebindings", Singular: "rolebinding", Namespaced: true, FeatureLevel: level.Access,
		Object: &binding{}, List: &rbacv1.RoleBindingList{},
		Support:        "works",
		Writers:        Writers{Spec: users},
		ValidateName:   validateAccessName,
		Default:        defaultWith(func(b *binding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		DefaultUpdate:  defaultUpdateWith(func(b, _ *binding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate:       validateWith(validateRoleBinding),
		ValidateUpdate: validateUpdateWith(validateRoleBindingUpdate),
		Columns: bindingColumns(func(b *binding) (rbacv1.RoleRef, []rbacv1.Subject) {
			return b.RoleRef, b.Subjects
		}),
	}
}

func clusterRoleBindingKind() *Kind {
	type binding = rbacv1.ClusterRoleBinding
	return &Kind{
		GVK: rbac("ClusterRoleBinding"), Resource: "clusterrolebindings", Singular: "clusterrolebinding", FeatureLevel: level.Access,
		Object: &binding{}, List: &rbacv1.ClusterRoleBindingList{},
		Support:        "works",
		Writers:        Writers{Spec: "users; stewards/roles those that are there from the start"},
		ValidateName:   validateAccessName,
		Default:        defaultWith(func(b *binding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		DefaultUpdate:  defaultUpdateWith(func(b, _ *binding) { defaultBinding(&b.RoleRef, b.Subjects) }),
		Validate:       validateWith(validateClusterRoleBinding),
		ValidateUpdate: validateUpdateWith(validateClusterRoleBindingUpdate),
		Columns: bindingColumns(func(b *binding) (rbacv1.RoleRef, []rbacv1.Subject) {
			return b.RoleRef, b.Subjects
		}),
	}
}

func rbac(kind string) schema.GroupVersionKind { return rbacv1.SchemeGroupVersion.WithKind(kind) }

// validateAccessName checks the name of a role or a binding. As in Kubernetes everything
// is good that is one segment of a path, so that names can have colons.
func validateAccessName(name string, _ bool) []string { return content.IsPathSegmentName(name) }

// defaultBinding fills in the groups that the role and the subjects are of.
func defaultBinding(role *rbacv1.RoleRef, subjects []rbacv1.Subject) {
	if role.APIGroup == "" {
		role.APIGroup = rbacv1.GroupName
	}
	for i := range subjects {
		s := &subjects[i]
		if s.APIGroup == "" && (s.Kind == rbacv1.UserKind || s.Kind == rbacv1.GroupKind) {
			s.APIGroup = rbacv1.GroupName
		}
	}
}

// bindingColumns are the columns of both kinds of bindings; parts reads one.
func bindingColumns[T Object](parts func(T) (rbacv1.RoleRef, []rbacv1.Subject)) []Column {
	subjects := func(kind string, name func(rbacv1.Subject) string) func(T) any {
		return func(b T) any {
			_, all := parts(b)
			return namesOfSubjects(all, kind, name)
		}
	}
	bare := func(s rbacv1.Subject) string { return s.Name }
	return []Column{
		column("Role", func(b T) any {
			role, _ := parts(b)
			return role.Kind + "/" + role.Name
		}),
		age,
		wideColumn("Users", subjects(rbacv1.UserKind, bare)),
		wideColumn("Groups", subjects(rbacv1.GroupKind, bare)),
		wideColumn("ServiceAccounts", subjects(rbacv1.ServiceAccountKind, func(s rbacv1.Subject) string {
			return s.Namespace + "/" + s.Name
		})),
	}
}
