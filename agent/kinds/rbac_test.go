package kinds

import (
	"fmt"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"virtmesh/agent/level"
	machine "virtmesh/agent/vmi"
)

// What Kubernetes refuses of roles and bindings, and at which field.
func TestRolesAndBindings(t *testing.T) {
	const pods = `{apiGroups: [""], resources: [pods], verbs: [get]}`
	const view = `roleRef: {kind: ClusterRole, name: view}`
	for name, c := range map[string]struct{ kind, manifest, field string }{
		"role":                        {"Role", `rules: [` + pods + `]`, ""},
		"role without rules":          {"Role", `{}`, ""},
		"rule without verbs":          {"Role", `rules: [` + pods + `, {apiGroups: [""], resources: [pods]}]`, "rules[1].verbs"},
		"rule without groups":         {"Role", `rules: [{resources: [pods], verbs: [get]}]`, "rules[0].apiGroups"},
		"rule without resources":      {"Role", `rules: [{apiGroups: [""], verbs: [get]}]`, "rules[0].resources"},
		"rule with a name":            {"Role", `rules: [{apiGroups: [""], resources: [pods], resourceNames: [a], verbs: [get]}]`, ""},
		"rule with name of what":      {"Role", `rules: [{apiGroups: [""], resources: [pods, nodes], resourceNames: [a], verbs: [get]}]`, "rules[0].resourceNames"},
		"role with a path":            {"Role", `rules: [{nonResourceURLs: [/metrics], verbs: [get]}]`, "rules[0].nonResourceURLs"},
		"cluster role with a path":    {"ClusterRole", `rules: [{nonResourceURLs: [/metrics], verbs: [get]}]`, ""},
		"paths and resources":         {"ClusterRole", `rules: [{nonResourceURLs: [/metrics], resources: [pods], verbs: [get]}]`, "rules[0].nonResourceURLs"},
		"path without verbs":          {"ClusterRole", `rules: [{nonResourceURLs: [/metrics]}]`, "rules[0].verbs"},
		"cluster role without verbs":  {"ClusterRole", `rules: [{apiGroups: [""], resources: [pods]}]`, "rules[0].verbs"},
		"aggregate":                   {"ClusterRole", `aggregationRule: {clusterRoleSelectors: [{matchLabels: {a: b}}, {matchExpressions: [{key: c, operator: Exists}]}]}`, ""},
		"aggregate of nothing":        {"ClusterRole", `aggregationRule: {}`, "aggregationRule.clusterRoleSelectors"},
		"aggregate by a bad operator": {"ClusterRole", `aggregationRule: {clusterRoleSelectors: [{matchExpressions: [{key: c, operator: Is}]}]}`, "aggregationRule.clusterRoleSelectors[0].matchExpressions[0].operator"},
		"aggregate by a bad value":    {"ClusterRole", `aggregationRule: {clusterRoleSelectors: [{}, {matchLabels: {a: "b c"}}]}`, "aggregationRule.clusterRoleSelectors[1].matchLabels"},
		"binding":                     {"RoleBinding", `{` + view + `, subjects: [{kind: User, name: ann}, {kind: Group, name: ops}, {kind: ServiceAccount, name: robot}]}`, ""},
		"binding of nobody":           {"RoleBinding", `{` + view + `}`, ""},
		"binding of a Role":           {"RoleBinding", `roleRef: {kind: Role, name: "a:b"}`, ""},
		"binding of what":             {"RoleBinding", `roleRef: {kind: User, name: a}`, "roleRef.kind"},
		"binding of no role":          {"RoleBinding", `roleRef: {kind: Role}`, "roleRef.name"},
		"binding of a path":           {"RoleBinding", `roleRef: {kind: Role, name: a/b}`, "roleRef.name"},
		"binding of another group":    {"RoleBinding", `roleRef: {apiGroup: v1, kind: Role, name: a}`, "roleRef.apiGroup"},
		"subject of another kind":     {"RoleBinding", `{` + view + `, subjects: [{kind: Robot, name: a}]}`, "subjects[0].kind"},
		"subject without a name":      {"RoleBinding", `{` + view + `, subjects: [{kind: User, name: ann}, {kind: Group}]}`, "subjects[1].name"},
		"subject of another group":    {"RoleBinding", `{` + view + `, subjects: [{kind: User, apiGroup: v1, name: a}]}`, "subjects[0].apiGroup"},
		"account of a group":          {"RoleBinding", `{` + view + `, subjects: [{kind: ServiceAccount, apiGroup: rbac.authorization.k8s.io, name: a}]}`, "subjects[0].apiGroup"},
		"account of a bad name":       {"RoleBinding", `{` + view + `, subjects: [{kind: ServiceAccount, name: A_b}]}`, "subjects[0].name"},
		"cluster binding":             {"ClusterRoleBinding", `{` + view + `, subjects: [{kind: ServiceAccount, namespace: ns, name: robot}]}`, ""},
		"cluster binding of a Role":   {"ClusterRoleBinding", `roleRef: {kind: Role, name: a}`, "roleRef.kind"},
		"account of nowhere":          {"ClusterRoleBinding", `{` + view + `, subjects: [{kind: ServiceAccount, name: robot}]}`, "subjects[0].namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			k := kind(t, c.kind)
			obj := k.defaultNew(object(t, k, c.manifest))
			check(t, k.Validate(machine.DefaultDefaults(), obj), c.field)
			check(t, k.ValidateUpdate(machine.DefaultDefaults(), obj, obj), c.field)
		})
	}
}

// A binding is of one role for ever; its subjects come and go.
func TestTheRoleOfABindingStays(t *testing.T) {
	for _, name := range []string{"RoleBinding", "ClusterRoleBinding"} {
		k := kind(t, name)
		old := k.defaultNew(object(t, k, `{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: ann}]}`))
		other := k.defaultNew(object(t, k, `{roleRef: {kind: ClusterRole, name: admin}, subjects: [{kind: User, name: ann}]}`))
		errs := k.ValidateUpdate(machine.DefaultDefaults(), other, old)
		check(t, errs, "roleRef")
		if len(errs) != 1 || !strings.Contains(errs[0].Detail, "cannot change roleRef") {
			t.Errorf("%s: %v", name, errs)
		}
		joined := k.defaultNew(object(t, k, `{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: bob}]}`))
		check(t, k.ValidateUpdate(machine.DefaultDefaults(), joined, old), "")
	}
}

// The groups of the API that a manifest leaves out are filled in, also in a changed object.
func TestBindingDefaults(t *testing.T) {
	const manifest = `{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s, namespace: ns}, {kind: Group, name: g}]}`
	k := kind(t, "RoleBinding")
	made, changed := k.defaultNew(object(t, k, manifest)).(*rbacv1.RoleBinding), object(t, k, manifest).(*rbacv1.RoleBinding)
	k.DefaultUpdate(machine.DefaultDefaults(), changed, made)
	for _, b := range []*rbacv1.RoleBinding{made, changed} {
		got := []string{b.RoleRef.APIGroup, b.Subjects[0].APIGroup, b.Subjects[1].APIGroup, b.Subjects[2].APIGroup}
		want := []string{rbacv1.GroupName, rbacv1.GroupName, "", rbacv1.GroupName}
		if strings.Join(got, ",") != strings.Join(want, ",") {
			t.Errorf("groups %q, want %q", got, want)
		}
	}
}

// kubectl get -o wide shows whom a binding is for.
func TestBindingColumns(t *testing.T) {
	for _, name := range []string{"RoleBinding", "ClusterRoleBinding"} {
		k := kind(t, name)
		b := object(t, k, `{roleRef: {kind: ClusterRole, name: view}, subjects: [{kind: User, name: ann}, {kind: Group, name: ops}, {kind: User, name: bob}, {kind: ServiceAccount, namespace: ns, name: s}]}`)
		if got, want := cells(k, b), "ClusterRole/view|<unknown>|ann, bob|ops|ns/s"; got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		var wide []string
		for _, c := range k.Columns {
			if c.Wide {
				wide = append(wide, c.Name)
			}
		}
		if got := strings.Join(wide, ","); got != "Users,Groups,ServiceAccounts" {
			t.Errorf("%s: only shown with -o wide: %s", name, got)
		}
	}
}

// Roles are named as Kubernetes and KubeVirt name theirs, and wait for their level.
func TestNamesOfRoles(t *testing.T) {
	for _, name := range []string{"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"} {
		k := kind(t, name)
		for _, good := range []string{"system:aggregate-to-view", "kubevirt.io:admin", "Me"} {
			if faults := k.ValidateName(good, false); len(faults) > 0 {
				t.Errorf("%s %s: %v", name, good, faults)
			}
		}
		for _, bad := range []string{"a/b", "..", "a%2f"} {
			if faults := k.ValidateName(bad, false); len(faults) == 0 {
				t.Errorf("%s %s is let through", name, bad)
			}
		}
		check(t, k.CheckLevel(level.Access-1, k.New(), nil), "kind")
		check(t, k.CheckLevel(level.Access, k.New(), nil), "")
	}
}

// A short role that gives very many rights would take the memory of the host that looks whether
// the user who writes it has them all.
func TestRolesHaveABoundedNumberOfRights(t *testing.T) {
	many := make([]string, 300)
	for i := range many {
		many[i] = fmt.Sprint("x", i)
	}
	rule := rbacv1.PolicyRule{APIGroups: many, Resources: many, Verbs: many}
	small := rbacv1.PolicyRule{APIGroups: many[:10], Resources: many[:20], Verbs: many[:100]}
	urls := rbacv1.PolicyRule{NonResourceURLs: many, Verbs: many}
	for name, c := range map[string]struct {
		rules   []rbacv1.PolicyRule
		refused bool
	}{
		"many of each": {[]rbacv1.PolicyRule{rule}, true}, "as many as there may be": {[]rbacv1.PolicyRule{small}, false},
		"too many together": {[]rbacv1.PolicyRule{small, small}, true}, "many URLs": {[]rbacv1.PolicyRule{urls}, true},
	} {
		role := &rbacv1.ClusterRole{Rules: c.rules}
		errs := validateClusterRole(role)
		if refused := len(errs) > 0 && errs[0].Field == "rules"; refused != c.refused {
			t.Errorf("%s: %v", name, errs)
		}
	}
}
