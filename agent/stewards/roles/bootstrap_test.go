package roles

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/auth/rbac/validation"

	"virtmesh/agent/kinds"
	machine "virtmesh/agent/vmi"
)

// rulesOf returns the rules of a role of the program, gathered if it has none of its own.
func rulesOf(t *testing.T, name string) []rbacv1.PolicyRule {
	t.Helper()
	var all []*rbacv1.ClusterRole
	for _, role := range bootstrapOf[*rbacv1.ClusterRole]() {
		all = append(all, role)
	}
	slices.SortFunc(all, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	i := slices.IndexFunc(all, func(r *rbacv1.ClusterRole) bool { return r.Name == name })
	if i < 0 {
		t.Fatalf("there is no role %s", name)
	}
	if all[i].AggregationRule == nil {
		return all[i].Rules
	}
	rules, err := gatherRules(all[i], all)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

// allowed returns those of the verbs that rules allow on a resource "group/resource", where
// the resource may have a subresource.
func allowed(rules []rbacv1.PolicyRule, resource string) string {
	group, name, _ := strings.Cut(resource, "/")
	var found []string
	for _, verb := range []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "impersonate", "bind", "escalate"} {
		asked := rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{name}, Verbs: []string{verb}}
		if ok, _ := validation.Covers(rules, []rbacv1.PolicyRule{asked}); ok {
			found = append(found, verb)
		}
	}
	return strings.Join(found, " ")
}

// Sets of verbs for the table.
const (
	look   = "get list watch"
	change = "get list watch create update patch delete"
	whole  = change + " deletecollection"
	free   = whole + " impersonate bind escalate"
)

// What who may view, edit or administer a namespace may do there with each resource, and
// nothing else. The rows of kubevirt.io, its subresources and groups are those of KubeVirt's
// roles, those of cdi.kubevirt.io CDI's, the others Kubernetes'.
func TestWhatPeopleMayDoInANamespace(t *testing.T) {
	for _, c := range []struct{ resource, view, edit, admin string }{
		{"kubevirt.io/virtualmachines", look, change, whole},
		{"kubevirt.io/virtualmachines/status", "", "", ""},
		{"kubevirt.io/virtualmachineinstances", look, change, whole},
		{"kubevirt.io/virtualmachineinstances/status", "", "", ""},
		{"kubevirt.io/virtualmachineinstancepresets", look, change, whole},
		{"kubevirt.io/virtualmachineinstancereplicasets", look, change, whole},
		{"kubevirt.io/virtualmachineinstancemigrations", look, look, look},
		{"kubevirt.io/kubevirts", "get list", "get list", "get list"},
		{"snapshot.kubevirt.io/virtualmachinesnapshots", look, change, whole},
		{"snapshot.kubevirt.io/virtualmachinesnapshotcontents", look, change, whole},
		{"snapshot.kubevirt.io/virtualmachinerestores", look, change, whole},
		{"backup.kubevirt.io/virtualmachinebackups", look, change, whole},
		{"backup.kubevirt.io/virtualmachinebackuptrackers", look, change, whole},
		{"export.kubevirt.io/virtualmachineexports", look, change, whole},
		{"clone.kubevirt.io/virtualmachineclones", look, change, whole},
		{"pool.kubevirt.io/virtualmachinepools", look, change, whole},
		{"instancetype.kubevirt.io/virtualmachineinstancetypes", look, change, whole},
		{"instancetype.kubevirt.io/virtualmachinepreferences", look, change, whole},
		{"instancetype.kubevirt.io/virtualmachineclusterinstancetypes", look, change, whole},
		{"instancetype.kubevirt.io/virtualmachineclusterpreferences", look, change, whole},
		{"migrations.kubevirt.io/migrationpolicies", look, look, look},

		{"subresources.kubevirt.io/virtualmachineinstances/console", "", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/vnc", "", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/vnc/screenshot", "", "", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/portforward", "", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/usbredir", "", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/guestosinfo", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/filesystemlist", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/userlist", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/objectgraph", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/sev/fetchcertchain", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/sev/querylaunchmeasurement", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachineinstances/sev/setupsession", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/sev/injectlaunchsecret", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/pause", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/unpause", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/softreboot", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/reset", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/freeze", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/unfreeze", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/addvolume", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/removevolume", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/evacuate/cancel", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachineinstances/vsock", "", "", ""},
		{"subresources.kubevirt.io/virtualmachines/start", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/stop", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/restart", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/migrate", "", "", ""},
		{"subresources.kubevirt.io/virtualmachines/portforward", "", "get", "get"},
		{"subresources.kubevirt.io/virtualmachines/expand-spec", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachines/objectgraph", "get", "get", "get"},
		{"subresources.kubevirt.io/virtualmachines/addvolume", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/removevolume", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/memorydump", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/removememorydump", "", "update", "update"},
		{"subresources.kubevirt.io/virtualmachines/evacuate/cancel", "", "update", "update"},
		{"subresources.kubevirt.io/expand-vm-spec", "update", "update", "update"},

		{"cdi.kubevirt.io/datavolumes", look, free, free},
		{"cdi.kubevirt.io/datavolumes/source", "", "create", "create"},
		{"cdi.kubevirt.io/datasources", look, free, free},
		{"cdi.kubevirt.io/dataimportcrons", look, free, free},
		{"cdi.kubevirt.io/volumeuploadsources", look, free, free},
		{"cdi.kubevirt.io/cdiconfigs", look, look, look},
		{"cdi.kubevirt.io/storageprofiles", look, look, look},
		{"upload.cdi.kubevirt.io/uploadtokenrequests", "", free, free},
		{"token.kubevirt.io/virtualmachines/vnc", "", "", ""},

		{"/persistentvolumeclaims", look, whole, whole},
		{"/configmaps", look, whole, whole},
		{"/secrets", "", whole, whole},
		{"/events", look, whole, whole},
		{"/namespaces", look, look, look},
		{"/pods", look, look + " delete", look + " delete"},
		{"/pods/eviction", "", "create", "create"},
		{"/pods/log", look, look, look},
		{"/services", look, whole, whole},
		{"/serviceaccounts", look, whole + " impersonate", whole + " impersonate"},
		{"/serviceaccounts/token", "", "create", "create"},
		{"/resourcequotas", look, look, look},
		{"/nodes", "", "", ""},
		{"coordination.k8s.io/leases", "", whole, whole},
		{"k8s.cni.cncf.io/network-attachment-definitions", look, look, look},
		{"storage.k8s.io/storageclasses", "", "", ""},
		{"rbac.authorization.k8s.io/roles", "", "", whole},
		{"rbac.authorization.k8s.io/rolebindings", "", "", whole},
		{"rbac.authorization.k8s.io/clusterroles", "", "", ""},
		{"rbac.authorization.k8s.io/clusterrolebindings", "", "", ""},
		{"authorization.k8s.io/localsubjectaccessreviews", "", "", "create"},
		{"authorization.k8s.io/subjectaccessreviews", "", "", ""},
		{"mesh.virtmesh.io/meshconfigs", "", "", ""},
		{"mesh.virtmesh.io/operations", "", "", ""},
		{"/*", "", "", ""},
		{"*/virtualmachines", "", "", ""},
	} {
		for role, want := range map[string]string{view: c.view, edit: c.edit, admin: c.admin} {
			if got := allowed(rulesOf(t, role), c.resource); got != want {
				t.Errorf("%s may %q %s, want %q", role, got, c.resource, want)
			}
		}
	}
}

// What the other roles are for, and what everybody who is known has.
func TestWhatTheOtherRolesAllow(t *testing.T) {
	for _, c := range []struct{ role, resource, want string }{
		{"cluster-admin", "mesh.virtmesh.io/meshconfigs", free},
		{"cluster-admin", "subresources.kubevirt.io/virtualmachines/migrate", free},
		{"kubevirt.io:migrate", "subresources.kubevirt.io/virtualmachines/migrate", "update"},
		{"kubevirt.io:migrate", "kubevirt.io/virtualmachineinstancemigrations", whole},
		{"kubevirt.io:migrate", "kubevirt.io/virtualmachines", ""},
		{"kubevirt.io:default", "subresources.kubevirt.io/version", "get list"},
		{"kubevirt.io:default", "kubevirt.io/virtualmachines", ""},
		{"instancetype.kubevirt.io:view", "instancetype.kubevirt.io/virtualmachineclusterinstancetypes", look},
		{"instancetype.kubevirt.io:view", "instancetype.kubevirt.io/virtualmachineinstancetypes", ""},
		{"cdi.kubevirt.io:config-reader", "cdi.kubevirt.io/storageprofiles", look},
		{"cdi.kubevirt.io:clone-sourcer", "cdi.kubevirt.io/datavolumes/source", "create"},
		{"cdi.kubevirt.io:clone-sourcer", "cdi.kubevirt.io/datavolumes", ""},
		{"token.kubevirt.io:generate", "token.kubevirt.io/virtualmachines/vnc", "get"},
		{"system:basic-user", "authorization.k8s.io/selfsubjectaccessreviews", "create"},
		{"system:basic-user", "authorization.k8s.io/subjectaccessreviews", ""},
		{"system:auth-delegator", "authentication.k8s.io/tokenreviews", "create"},
	} {
		if got := allowed(rulesOf(t, c.role), c.resource); got != c.want {
			t.Errorf("%s may %q %s, want %q", c.role, got, c.resource, c.want)
		}
	}
	for role, path := range map[string]string{
		"cluster-admin": "/anything", "system:discovery": "/openapi/v3", "system:public-info-viewer": "/version", "system:monitoring": "/metrics",
	} {
		asked := rbacv1.PolicyRule{NonResourceURLs: []string{path}, Verbs: []string{"get"}}
		if ok, _ := validation.Covers(rulesOf(t, role), []rbacv1.PolicyRule{asked}); !ok {
			t.Errorf("%s may not read %s", role, path)
		}
	}
	if ok, _ := validation.Covers(rulesOf(t, "system:discovery"), []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}}); ok {
		t.Error("everybody may read the metrics")
	}
}

// From the start only administrators may change anything, and strangers see that the mesh
// is alive.
func TestWhoHasWhichRoleFromTheStart(t *testing.T) {
	want := map[string]string{
		"cluster-admin":                 "system:masters",
		"system:discovery":              "system:authenticated",
		"system:basic-user":             "system:authenticated",
		"system:public-info-viewer":     "system:authenticated,system:unauthenticated",
		"system:monitoring":             "system:monitoring",
		"kubevirt.io:default":           "system:authenticated",
		"instancetype.kubevirt.io:view": "system:authenticated",
		"cdi.kubevirt.io:config-reader": "system:authenticated,system:serviceaccounts",
	}
	have := bootstrapOf[*rbacv1.ClusterRoleBinding]()
	for name, b := range have {
		var groups []string
		for _, s := range b.Subjects {
			groups = append(groups, s.Name)
		}
		if got := strings.Join(groups, ","); got != want[name] || b.RoleRef.Name != name {
			t.Errorf("%s is of role %s for %s, want it for %s", name, b.RoleRef.Name, got, want[name])
		}
	}
	if len(have) != len(want) {
		t.Errorf("%d bindings, want %d", len(have), len(want))
	}
}

// The API would take every object of the program as it is, each binding has its role, and
// all are marked as Kubernetes marks them.
func TestBootstrapIsValid(t *testing.T) {
	roles := bootstrapOf[*rbacv1.ClusterRole]()
	seen := map[string]bool{}
	for _, o := range Bootstrap() {
		kind, err := kinds.Of(o)
		if err != nil {
			t.Fatal(err)
		}
		at := kind.GVK.Kind + " " + o.GetName()
		if seen[at] {
			t.Errorf("%s is there twice", at)
		}
		seen[at] = true
		var errs field.ErrorList
		if kind.Default != nil {
			before := o.DeepCopyObject()
			kind.Default(machine.DefaultDefaults(), o)
			if b, ok := before.(*rbacv1.ClusterRoleBinding); ok && b.RoleRef != o.(*rbacv1.ClusterRoleBinding).RoleRef {
				t.Errorf("%s leaves out what is filled in, so it would be written again and again", at)
			}
		}
		errs = append(errs, kind.Validate(machine.DefaultDefaults(), o)...)
		if len(errs) > 0 || len(kind.ValidateName(o.GetName(), false)) > 0 {
			t.Errorf("%s is refused: %v", at, errs.ToAggregate())
		}
		if b, ok := o.(*rbacv1.ClusterRoleBinding); ok && roles[b.RoleRef.Name] == nil {
			t.Errorf("%s is of a role that does not exist", at)
		}
		if o.GetLabels()["kubernetes.io/bootstrapping"] != "rbac-defaults" || o.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] != "true" {
			t.Errorf("%s has labels %v and annotations %v", at, o.GetLabels(), o.GetAnnotations())
		}
	}
}

// Who gets the objects may change them.
func TestBootstrapIsMadeAnew(t *testing.T) {
	first := bootstrapOf[*rbacv1.ClusterRole]()["kubevirt.io:view"]
	first.Rules[0].Verbs[0], first.Labels["a"] = "delete", "b"
	second := bootstrapOf[*rbacv1.ClusterRole]()["kubevirt.io:view"]
	if second.Rules[0].Verbs[0] == "delete" || second.Labels["a"] != "" {
		t.Errorf("a change of one is seen in the next: %+v", second)
	}
	for i := range first.Rules[1:] {
		if slices.Contains(first.Rules[i+1].Verbs, "delete") {
			t.Errorf("two rules share their verbs: %+v", first.Rules)
		}
	}
}

// uncoveredBy returns the parts of a rule that rules do not allow.
func uncoveredBy(rules []rbacv1.PolicyRule, rule rbacv1.PolicyRule) []rbacv1.PolicyRule {
	_, uncovered := validation.Covers(rules, []rbacv1.PolicyRule{rule})
	return uncovered
}
