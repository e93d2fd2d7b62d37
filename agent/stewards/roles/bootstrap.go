package roles

import (
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds"
)

// Labels of the roles that a mesh has from the start. Kubernetes and KubeVirt have the same.
const (
	// bootstrapLabel marks them: kubectl get clusterroles -l kubernetes.io/bootstrapping.
	bootstrapLabel, bootstrapValue = "kubernetes.io/bootstrapping", "rbac-defaults"
	// aggregateTo, followed by the name of a role, adds the rules of a role to that role.
	aggregateTo = "rbac.authorization.k8s.io/aggregate-to-"
	// Of KubeVirt, and of the Containerized Data Importer.
	kubevirtLabel = "kubevirt.io"
	cdiLabel      = "cdi.kubevirt.io"
)

// The roles for people: in a namespace by a RoleBinding, everywhere by a ClusterRoleBinding.
const (
	admin = "admin"
	edit  = "edit"
	view  = "view"
)

// The groups that bindings of the program are for, as Kubernetes names them.
const (
	administrators  = "system:masters"
	known           = "system:authenticated"
	unknown         = "system:unauthenticated"
	serviceAccounts = "system:serviceaccounts"
	monitoring      = "system:monitoring"
)

// The verbs of rules. Each function returns a new list: rules become parts of objects.
func reading() []string { return []string{"get", "list", "watch"} }
func changing() []string {
	return []string{"create", "update", "patch", "delete", "deletecollection"}
}
func everything() []string       { return append(reading(), changing()...) }
func verbs(v ...string) []string { return v }

// Bootstrap returns the ClusterRoles and ClusterRoleBindings that every mesh has from
// feature level level.Access on, roles first. They are new objects, which the caller may
// change, without what the store fills in.
//
// Names, rules and labels are those of Kubernetes, KubeVirt and CDI as far as they are about
// something that the mesh serves or is meant to serve, so that a binding that is written for
// a cluster means the same here.
func Bootstrap() []kinds.Object {
	var all []kinds.Object
	for _, roles := range [][]*rbacv1.ClusterRole{systemRoles(), namespaceRoles(), kubevirtRoles(), cdiRoles()} {
		for _, role := range roles {
			all = append(all, role)
		}
	}
	for _, b := range bindings() {
		all = append(all, b)
	}
	for _, o := range all {
		labels := o.GetLabels()
		if labels == nil {
			labels = map[string]string{}
		}
		labels[bootstrapLabel] = bootstrapValue
		o.SetLabels(labels)
		o.SetAnnotations(map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"})
	}
	return all
}

// clusterRole makes a role with its rules.
func clusterRole(name string, labels map[string]string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Rules: rules}
}

// rule allows verbs on resources of an API group, whose name is empty for the core group.
func rule(group string, verbs []string, resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{APIGroups: []string{group}, Resources: resources, Verbs: slices.Clone(verbs)}
}

// paths allows reading paths that are not those of objects.
func paths(of ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{NonResourceURLs: slices.Clone(of), Verbs: verbs("get")}
}

// systemRoles are the roles that are not about namespaces. There is none for hosts: agents
// do not use the API.
func systemRoles() []*rbacv1.ClusterRole {
	health := []string{"/healthz", "/livez", "/readyz", "/version", "/version/"}
	return []*rbacv1.ClusterRole{
		clusterRole("cluster-admin", nil,
			rule(rbacv1.APIGroupAll, verbs(rbacv1.VerbAll), rbacv1.ResourceAll),
			rbacv1.PolicyRule{NonResourceURLs: []string{rbacv1.NonResourceAll}, Verbs: verbs(rbacv1.VerbAll)},
		),
		clusterRole("system:discovery", nil,
			paths(append(health, "/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*")...)),
		clusterRole("system:public-info-viewer", nil, paths(health...)),
		clusterRole("system:basic-user", nil,
			rule("authorization.k8s.io", verbs("create"), "selfsubjectaccessreviews", "selfsubjectrulesreviews"),
			rule("authentication.k8s.io", verbs("create"), "selfsubjectreviews"),
		),
		clusterRole("system:auth-delegator", nil,
			rule("authentication.k8s.io", verbs("create"), "tokenreviews"),
			rule("authorization.k8s.io", verbs("create"), "subjectaccessreviews"),
		),
		clusterRole("system:monitoring", nil,
			paths("/metrics", "/metrics/*", "/healthz", "/healthz/*", "/livez", "/livez/*", "/readyz", "/readyz/*")),
	}
}

// bindings says who has which of the roles from the start.
func bindings() []*rbacv1.ClusterRoleBinding {
	all := []*rbacv1.ClusterRoleBinding{
		bind("cluster-admin", administrators),
		bind("system:discovery", known),
		bind("system:basic-user", known),
		bind("system:public-info-viewer", known, unknown),
		bind("system:monitoring", monitoring),
	}
	for _, name := range []string{kubevirtDefault, instancetypeView} {
		b := bind(name, known)
		b.Labels = map[string]string{kubevirtLabel: ""}
		all = append(all, b)
	}
	b := bind(cdiConfigReader, known, serviceAccounts)
	b.Labels = map[string]string{cdiLabel: ""}
	return append(all, b)
}

// bind binds a ClusterRole to groups; the binding has the role's name.
func bind(role string, groups ...string) *rbacv1.ClusterRoleBinding {
	b := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
	}
	for _, group := range groups {
		b.Subjects = append(b.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: group})
	}
	return b
}
