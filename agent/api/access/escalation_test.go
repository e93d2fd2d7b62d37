package access_test

import (
	"strings"
	"testing"
	"testing/synctest"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"

	"virtmesh/agent/api/access"
	"virtmesh/agent/kinds"
)

// validate judges the write of an object by a user: a creation if old is nil.
func validate(t testing.TB, e *access.Escalation, u user.Info, obj, old kinds.Object) error {
	t.Helper()
	kind, err := kinds.Of(obj)
	if err != nil {
		t.Fatal(err)
	}
	operation, before, options := admission.Create, runtime.Object(nil), runtime.Object(&metav1.CreateOptions{})
	if old != nil {
		operation, before, options = admission.Update, old, &metav1.UpdateOptions{}
	}
	return e.Validate(t.Context(), admission.NewAttributesRecord(obj, before, kind.GVK, obj.GetNamespace(), obj.GetName(),
		kind.GVK.GroupVersion().WithResource(kind.Resource), "", operation, options, false, u), nil)
}

// aggregating makes a role gather the rules of others.
func aggregating(r *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	r.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	return r
}

// labelled gives a copy of a role a label.
func labelled(r *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	r = r.DeepCopy()
	r.Labels = map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}
	return r
}

// Nobody gives rights that he does not have where they count.
func TestNobodyGivesMoreThanHeHas(t *testing.T) {
	secrets, maps := rule("get list", "core", "secrets"), rule("get", "core", "configmaps")
	powerful := clusterRole("powerful", rule("*", "*", "*"), paths("*", "*"))
	finalized := powerful.DeepCopy()
	finalized.Finalizers = []string{"example.com/wait"}
	const held = "is attempting to grant RBAC permissions not currently held:\n"
	cases := []struct {
		name     string
		who      *user.DefaultInfo
		obj, old kinds.Object
		refused  string // what the error says; empty: nothing is refused
	}{
		{"a role of what he has", named("eve"), role("blue", "r", secrets), nil, ""},
		{"less than he has", named("eve"), role("blue", "r", rule("get", "core", "secrets", "one")), nil, ""},
		{"one verb more", named("eve"), role("blue", "r", rule("get delete", "core", "secrets")), nil,
			`user "eve" (groups=["people"]) ` + held + `{APIGroups:[""], Resources:["secrets"], Verbs:["delete"]}`},
		{"several more", named("eve"), role("blue", "r", maps, rule("update patch", "core", "secrets nodes")), nil,
			held + `{APIGroups:[""], Resources:["configmaps"], Verbs:["get"]}` + "\n" +
				`{APIGroups:[""], Resources:["nodes"], Verbs:["update" "patch"]}` + "\n" + `{APIGroups:[""], Resources:["secrets"], Verbs:["update" "patch"]}`},
		{"a star", named("eve"), role("blue", "r", rule("*", "*", "*")), nil, held},
		{"in another namespace", named("eve"), role("red", "r", secrets), nil, held},
		{"everywhere", named("eve"), clusterRole("r", secrets), nil, held},
		{"a path", named("eve"), clusterRole("r", paths("get", "/metrics")), nil, held + `{NonResourceURLs:["/metrics"], Verbs:["get"]}`},
		{"nothing", named("eve"), role("blue", "r"), nil, ""},
		{"an administrator", named("root", "system:masters"), clusterRole("r", rule("*", "*", "*")), nil, ""},
		{"by the verb escalate, new", named("boss"), role("blue", "r", secrets, maps), nil, ""},
		{"by escalate of the namespace, elsewhere", named("boss"), role("red", "r", secrets), nil, held},
		{"more by an update", named("eve"), role("blue", "r", secrets, maps), role("blue", "r", secrets), held},
		{"a label that gives a role to viewers", named("eve"), labelled(powerful), powerful, held},
		{"owners and finalizers of what is beyond him", named("eve"), finalized, powerful, ""},
		{"no change", named("eve"), powerful.DeepCopy(), powerful, ""},
		{"what gathers rules", named("eve"), aggregating(clusterRole("r")), nil, "must have cluster-admin privileges to use the aggregationRule"},
		{"no longer gathers", named("eve"), clusterRole("r"), aggregating(clusterRole("r")), "must have cluster-admin privileges"},
		{"gathers, by who has all", named("all"), aggregating(clusterRole("r")), nil, ""},

		{"binds what he has", named("eve"), bind("blue", "b", "ClusterRole/secrets", person("x")), nil, ""},
		{"binds it elsewhere", named("eve"), bind("red", "b", "ClusterRole/secrets", person("x")), nil, held},
		{"binds it everywhere", named("eve"), bind("", "b", "ClusterRole/secrets", person("x")), nil, held},
		{"binds a role of more", named("eve"), bind("blue", "b", "ClusterRole/powerful", person("eve")), nil, held},
		{"binds nothing", named("eve"), bind("blue", "b", "ClusterRole/none", person("eve")), nil, `"none" not found`},
		{"binds a role of another namespace", named("eve"), bind("blue", "b", "Role/red", person("eve")), nil, `"red" not found`},
		{"by the verb bind", named("binder"), bind("blue", "b", "ClusterRole/powerful", person("x")), nil, ""},
		{"by the verb bind, another role", named("binder"), bind("blue", "b", "ClusterRole/secrets", person("x")), nil, held},
		{"by the verb bind, elsewhere", named("binder"), bind("", "b", "ClusterRole/powerful", person("x")), nil, held},
		{"one subject more", named("eve"), bind("blue", "b", "ClusterRole/powerful", person("x"), person("eve")), bind("blue", "b", "ClusterRole/powerful", person("x")), held},
		{"escalate does not bind", named("boss"), bind("blue", "b", "ClusterRole/powerful", person("boss")), nil, held},
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(powerful, clusterRole("secrets", secrets), role("red", "red", maps),
			clusterRole("boss", rule("escalate", rbacv1.GroupName, "roles")), clusterRole("binder", rule("bind", rbacv1.GroupName, "clusterroles", "powerful")),
			bind("blue", "eve", "ClusterRole/secrets", person("eve")), bind("blue", "boss", "ClusterRole/boss", person("boss")),
			bind("blue", "binder", "ClusterRole/binder", person("binder")), bind("", "all", "ClusterRole/powerful", person("all")))
		defer w.read()()
		e := access.NewEscalation(w.roles, w.roles)
		for _, c := range cases {
			if len(c.who.Groups) == 0 {
				c.who.Groups = []string{"people"}
			}
			err := validate(t, e, c.who, c.obj, c.old)
			switch {
			case c.refused == "" && err != nil:
				t.Errorf("%s: %v", c.name, err)
			case c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)):
				t.Errorf("%s: %v, want %q", c.name, err, c.refused)
			case c.refused != "" && !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err):
				t.Errorf("%s: %v is no refusal", c.name, err)
			}
		}
	})
}

// While a host does not know who has what, it lets nobody but administrators give anything.
func TestUnreadRolesGiveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		e := access.NewEscalation(w.roles, w.roles)
		if err := validate(t, e, named("eve"), role("blue", "r", rule("get", "core", "secrets")), nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not read the roles") {
			t.Errorf("a role: %v", err)
		}
		if err := validate(t, e, named("eve"), bind("blue", "b", "ClusterRole/r", person("eve")), nil); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "not read the roles") {
			t.Errorf("a binding: %v", err)
		}
		if err := validate(t, e, named("root", "system:masters"), bind("blue", "b", "ClusterRole/r", person("eve")), nil); err != nil {
			t.Errorf("an administrator: %v", err)
		}
	})
}
