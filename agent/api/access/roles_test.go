package access_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"virtmesh/agent/api/access"
	"virtmesh/agent/kinds"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/objects/objectstest"
	"virtmesh/raftstore"
)

// world is a host's view of the roles of a mesh. Its store is what the test writes to.
type world struct {
	testing.TB
	store *objectstest.Store
	cache *objects.Cache
	roles *access.Roles
}

// newWorld returns a world at level.Access that nothing is read from yet.
func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{TB: t, store: objectstest.New()}
	w.store.SetFeatureLevel(level.Access)
	config := objects.DefaultCacheConfig()
	config.Store, config.Logger = w.store, slog.New(slog.DiscardHandler)
	var err error
	if w.cache, err = objects.NewCache(config); err != nil {
		t.Fatal(err)
	}
	w.roles = access.New(access.Config{Cache: w.cache, Level: w.store.FeatureLevel})
	return w
}

// read follows the store until the returned function is called.
func (w *world) read() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.cache.Run(ctx) }()
	return func() { cancel(); <-done }
}

func (w *world) put(list ...kinds.Object) {
	w.Helper()
	for _, o := range list {
		kind, err := kinds.Of(o)
		if err != nil {
			w.Fatal(err)
		}
		data, err := objects.Encode(o)
		if err != nil {
			w.Fatal(err)
		}
		w.commit(raftstore.Op{Key: kind.StoreKey(kinds.KeyOf(o)), Value: data})
	}
}

func (w *world) remove(o kinds.Object) {
	w.Helper()
	kind, err := kinds.Of(o)
	if err != nil {
		w.Fatal(err)
	}
	w.commit(raftstore.Op{Key: kind.StoreKey(kinds.KeyOf(o)), Delete: true})
}

func (w *world) commit(op raftstore.Op) {
	w.Helper()
	if _, err := w.store.Commit(context.Background(), raftstore.Txn{Ops: []raftstore.Op{op}}); err != nil {
		w.Fatal(err)
	}
}

func rule(verbs, groups, resources string, names ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: words(verbs), APIGroups: words(groups), Resources: words(resources), ResourceNames: names}
}

func paths(verbs, urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: words(verbs), NonResourceURLs: words(urls)}
}

// words splits a list; "core" stands for the group without a name.
func words(list string) []string {
	out := strings.Fields(list)
	for i := range out {
		if out[i] == "core" {
			out[i] = ""
		}
	}
	return out
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules}
}

// bind binds a role, named Kind/name, to subjects, in a namespace or everywhere.
func bind(namespace, name, to string, subjects ...rbacv1.Subject) kinds.Object {
	kind, of, _ := strings.Cut(to, "/")
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: of}
	if namespace == "" {
		return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: ref, Subjects: subjects}
	}
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, RoleRef: ref, Subjects: subjects}
}

func person(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.UserKind, Name: name} }

func team(name string) rbacv1.Subject { return rbacv1.Subject{Kind: rbacv1.GroupKind, Name: name} }

func account(namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: name}
}

// ask is a request: "verb group resource[/subresource][:name] [namespace]", or "verb /path".
func ask(u user.Info, request string) authorizer.AttributesRecord {
	part := strings.Fields(request)
	if len(part) == 2 {
		return authorizer.AttributesRecord{User: u, Verb: part[0], Path: part[1]}
	}
	a := authorizer.AttributesRecord{User: u, ResourceRequest: true, Verb: part[0], APIGroup: words(part[1])[0], Resource: part[2]}
	a.Resource, a.Name, _ = strings.Cut(a.Resource, ":")
	a.Resource, a.Subresource, _ = strings.Cut(a.Resource, "/")
	if len(part) == 4 {
		a.Namespace = part[3]
	}
	return a
}

func named(name string, groups ...string) *user.DefaultInfo {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

func (w *world) allows(u user.Info, request string) (allowed bool, reason string) {
	w.Helper()
	decision, reason, err := w.roles.Authorize(context.Background(), ask(u, request))
	if err != nil || decision == authorizer.DecisionDeny {
		w.Errorf("%s: %v, %v: roles take no right away", request, decision, err)
	}
	return decision == authorizer.DecisionAllow, reason
}

// What a rule lets through is what Kubernetes' does.
func TestWhatARuleAllows(t *testing.T) {
	for _, c := range []struct {
		rule    rbacv1.PolicyRule
		yes, no string // separated by commas
	}{
		{rule("get", "kubevirt.io", "virtualmachines"),
			"get kubevirt.io virtualmachines:a ns",
			"list kubevirt.io virtualmachines ns, get core virtualmachines:a ns, get kubevirt.io virtualmachines/status:a ns, get kubevirt.io virtualmachineinstances:a ns, get /virtualmachines"},
		{rule("*", "*", "*"),
			"delete core secrets:a ns, impersonate core users:root, update subresources.kubevirt.io virtualmachines/start:a ns, list core nodes",
			"get /metrics"},
		{rule("get list", "core", "pods nodes/status"),
			"list core pods ns, get core nodes/status:a",
			"watch core pods ns, get core nodes:a, get core pods/log:a ns"},
		{rule("update", "*", "*/start"),
			"update subresources.kubevirt.io virtualmachines/start:a ns",
			"update subresources.kubevirt.io virtualmachines/restart:a ns, update core start:a ns, update core virtualmachines:a ns"},
		{rule("get", "core", "secrets/*"), "", "get core secrets/a:b ns, get core secrets:a ns"},
		{rule("get list watch create delete deletecollection", "core", "secrets", "a", "b"),
			"get core secrets:a ns, delete core secrets:b ns, watch core secrets:a ns",
			"get core secrets:c ns, create core secrets ns, deletecollection core secrets ns, list core secrets ns, watch core secrets ns"},
		{paths("get", "/metrics /api/* /logs*"),
			"get /metrics, get /api/v1, get /logs, get /logs/a",
			"post /metrics, get /metrics/a, get /api, get /, get core metrics ns"},
		{paths("*", "*"), "get /, delete /a/b", "get core pods ns"},
		{rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}}, "", "get core pods ns"},
		{rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}}, "", "get core pods ns"},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			w.put(clusterRole("r", c.rule), bind("", "b", "ClusterRole/r", person("eve")))
			defer w.read()()
			check := func(requests string, want bool) {
				for request := range strings.SplitSeq(requests, ",") {
					if request = strings.TrimSpace(request); request == "" {
						continue
					}
					if got, _ := w.allows(named("eve"), request); got != want {
						t.Errorf("%v: %s: allowed is %v", c.rule, request, got)
					}
				}
			}
			check(c.yes, true)
			check(c.no, false)
		})
	}
}

// A binding counts for those whom it names, and where it is.
func TestWhoGetsRights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(
			clusterRole("reader", rule("get", "core", "secrets")), role("blue", "reader", rule("get", "core", "configmaps")),
			bind("", "everywhere", "ClusterRole/reader", person("root"), team("auditors"), account("ops", "audit"), account("", "nowhere")),
			bind("blue", "here", "ClusterRole/reader", team("blues"), person("eve"), account("", "local")),
			bind("blue", "own", "Role/reader", person("eve")),
			bind("red", "alien", "Role/reader", person("eve")),
			bind("red", "ghost", "ClusterRole/none", person("eve"), person("root")),
			bind("red", "strange", "ClusterRole/reader", rbacv1.Subject{Kind: "Robot", Name: "eve"}),
		)
		defer w.read()()
		for _, c := range []struct {
			who     *user.DefaultInfo
			request string
			allowed bool
			reason  string
		}{
			{named("root"), "get core secrets:a", true, `RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to User "root"`},
			{named("root"), "get core secrets:a red", true, `RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to User "root"`},
			{named("x", "people", "auditors"), "get core secrets:a red", true, `RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to Group "auditors"`},
			{named("auditors", "root"), "get core secrets:a red", false, ""},
			{named("system:serviceaccount:ops:audit"), "get core secrets:a red", true, `RBAC: allowed by ClusterRoleBinding "everywhere" of ClusterRole "reader" to ServiceAccount "audit/ops"`},
			{named("system:serviceaccount:red:audit"), "get core secrets:a red", false, ""},
			{named("system:serviceaccount::nowhere"), "get core secrets:a red", false, ""},
			{named("eve"), "get core secrets:a blue", true, `RBAC: allowed by RoleBinding "here/blue" of ClusterRole "reader" to User "eve"`},
			{named("eve"), "get core configmaps:a blue", true, `RBAC: allowed by RoleBinding "own/blue" of Role "reader" to User "eve"`},
			{named("eve"), "get core secrets:a", false, ""},
			{named("eve"), "get core secrets:a red", false, `RBAC: [role.rbac.authorization.k8s.io "reader" not found, clusterrole.rbac.authorization.k8s.io "none" not found]`},
			{named("system:serviceaccount:blue:local"), "get core secrets:a blue", true, `RBAC: allowed by RoleBinding "here/blue" of ClusterRole "reader" to ServiceAccount "local/blue"`},
			{named("system:serviceaccount:red:local"), "get core secrets:a blue", false, ""},
		} {
			allowed, reason := w.allows(c.who, c.request)
			if allowed != c.allowed {
				t.Errorf("%s: %s: allowed is %v", c.who.Name, c.request, allowed)
			}
			if want := c.reason; reason != want {
				t.Errorf("%s: %s: because %q, want %q", c.who.Name, c.request, reason, want)
			}
		}
		resources, urls, incomplete, err := w.roles.RulesFor(t.Context(), named("root", "auditors"), "red")
		if len(resources) != 1 || len(urls) != 0 || incomplete || err == nil || !strings.Contains(err.Error(), `"none" not found`) {
			t.Errorf("the rules of who is named twice: %v, %v, %v, %v", resources, urls, incomplete, err)
		}
	})
}

// Below the level nobody has rights by roles, whatever the mesh holds, and from it on all do.
func TestBelowTheLevelRolesGiveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(clusterRole("all", rule("*", "*", "*")), bind("", "b", "ClusterRole/all", person("eve")))
		w.store.SetFeatureLevel(level.Access - 1)
		defer w.read()()
		if allowed, _ := w.allows(named("eve"), "get core secrets:a red"); allowed {
			t.Error("a role counts below the level")
		}
		if rules, _, _, err := w.roles.RulesFor(t.Context(), named("eve"), "red"); len(rules) > 0 || err != nil {
			t.Errorf("rules below the level: %v, %v", rules, err)
		}
		w.store.SetFeatureLevel(level.Access)
		if allowed, _ := w.allows(named("eve"), "get core secrets:a red"); !allowed {
			t.Error("a role does not count at the level")
		}
	})
}

// A request that comes before the roles waits for them; if they do not come, it is refused and
// told why.
func TestUnreadRoles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.put(clusterRole("all", rule("*", "*", "*")), bind("", "b", "ClusterRole/all", person("eve")))
		if allowed, reason := w.allows(named("eve"), "get core secrets:a red"); allowed || !strings.Contains(reason, "not read the roles") {
			t.Errorf("without roles: allowed %v because %q", allowed, reason)
		}
		if _, _, incomplete, err := w.roles.RulesFor(t.Context(), named("eve"), "red"); !incomplete || err == nil {
			t.Errorf("the list is not called incomplete: %v", err)
		}
		var stop func()
		time.AfterFunc(time.Second, func() { stop = w.read() })
		if allowed, reason := w.allows(named("eve"), "get core secrets:a red"); !allowed {
			t.Errorf("a request that waited is refused: %q", reason)
		}
		synctest.Wait()
		stop()
	})
}

// loop decides as the rules say, by looking at everything.
func loop(list map[string]kinds.Object, u user.Info, request string) bool {
	a := ask(u, request)
	for _, o := range list {
		var ref rbacv1.RoleRef
		var subjects []rbacv1.Subject
		switch b := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			ref, subjects = b.RoleRef, b.Subjects
		case *rbacv1.RoleBinding:
			ref, subjects = b.RoleRef, b.Subjects
		}
		if o.GetNamespace() != "" && o.GetNamespace() != a.Namespace {
			continue
		}
		names := slices.ContainsFunc(subjects, func(s rbacv1.Subject) bool {
			switch s.Kind {
			case rbacv1.UserKind:
				return s.Name == u.GetName()
			case rbacv1.GroupKind:
				return slices.Contains(u.GetGroups(), s.Name)
			}
			return fmt.Sprintf("system:serviceaccount:%s:%s", s.Namespace, s.Name) == u.GetName()
		})
		if !names {
			continue
		}
		var rules []rbacv1.PolicyRule
		if r, ok := list[ref.Kind+" "+o.GetNamespace()+"/"+ref.Name].(*rbacv1.Role); ok {
			rules = r.Rules
		}
		if r, ok := list[ref.Kind+" /"+ref.Name].(*rbacv1.ClusterRole); ok {
			rules = r.Rules
		}
		if slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool {
			return slices.Contains(r.Verbs, a.Verb) && slices.Contains(r.APIGroups, a.APIGroup) && slices.Contains(r.Resources, a.Resource)
		}) {
			return true
		}
	}
	return false
}
