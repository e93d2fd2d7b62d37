package api_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"virtmesh/agent/api"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// client returns a client with a certificate of its own.
func (h *host) client(t testing.TB, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	return kubernetes.NewForConfigOrDie(h.config(t, user, groups...))
}

// Who may write roles and bindings in his namespace cannot make himself more than he is, whichever
// way he takes.
func TestEscalation(t *testing.T) {
	h := startWithRoles(t)
	makeNamespaces(t, h)
	grantRoles(t, h)
	ctx := t.Context()
	owner := h.client(t, "owner", "people").RbacV1()
	nodes := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "nodes"}, Rules: []rbacv1.PolicyRule{rule("get", "core", "nodes")}}
	toSelf := func(role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{person("owner")}}
	}
	const message = `user "owner" (groups=["people" "system:authenticated"]) is attempting to grant RBAC permissions not currently held:`
	patch := func(typ types.PatchType, name, body string, options metav1.PatchOptions) error {
		_, err := owner.Roles("blue").Patch(ctx, name, typ, []byte(body), options)
		return err
	}
	for what, err := range map[string]error{
		"a role":     second(owner.Roles("blue").Create(ctx, nodes, metav1.CreateOptions{})),
		"a dry run":  second(owner.Roles("blue").Create(ctx, nodes, metav1.CreateOptions{DryRun: []string{"All"}})),
		"a binding":  second(owner.RoleBindings("blue").Create(ctx, toSelf("cluster-admin"), metav1.CreateOptions{})),
		"a patch":    patch(types.MergePatchType, "one", `{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`, metav1.PatchOptions{}),
		"JSON patch": patch(types.JSONPatchType, "one", `[{"op":"replace","path":"/rules","value":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}]`, metav1.PatchOptions{}),
		"an apply": patch(types.ApplyPatchType, "one", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"one"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`,
			metav1.PatchOptions{FieldManager: "test", Force: new(true)}),
		"an apply that creates": patch(types.ApplyPatchType, "new", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"new"},"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]}]}`,
			metav1.PatchOptions{FieldManager: "test"}),
	} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), message) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := owner.Roles("blue").Get(ctx, "nodes", getOptions); !apierrors.IsNotFound(err) {
		t.Errorf("what was refused is there: %v", err)
	}
	if _, err := owner.RoleBindings("blue").Create(ctx, toSelf("edit"), metav1.CreateOptions{}); err != nil {
		t.Errorf("a binding of what he has: %v", err)
	}
	for what, err := range map[string]error{
		"a binding everywhere": second(owner.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "x"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "view"}}, metav1.CreateOptions{})),
		"an editor":            second(h.client(t, "editor").RbacV1().RoleBindings("blue").Create(ctx, toSelf("view"), metav1.CreateOptions{})),
	} {
		if !apierrors.IsForbidden(err) || strings.Contains(err.Error(), "attempting") {
			t.Errorf("%s: %v, want forbidden by his own roles", what, err)
		}
	}
}

// second drops the object of an answer.
func second[T any](_ T, err error) error { return err }

// Only who has the verb impersonate acts as another user, and only as such as it names.
func TestImpersonation(t *testing.T) {
	h := startWithRoles(t)
	makeNamespaces(t, h)
	grantRoles(t, h)
	ctx := t.Context()
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "helpdesk"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "impersonate"}, Subjects: []rbacv1.Subject{person("helpdesk")}}
	if _, err := h.admin(t).RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// as tries to read the secrets of blue as another user.
	as := func(user, other string, groups ...string) error {
		config := h.config(t, user, "people")
		config.Impersonate = rest.ImpersonationConfig{UserName: other, Groups: groups}
		_, err := kubernetes.NewForConfigOrDie(config).CoreV1().Secrets("blue").List(ctx, metav1.ListOptions{})
		return err
	}
	await(t, "the helpdesk acts as the editor", func() bool { return as("helpdesk", "editor") == nil })
	if err := as("helpdesk", "viewer"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "viewer" cannot list`) {
		t.Errorf("as a user who may not: %v", err)
	}
	for _, user := range []string{"owner", "editor", "helpdesk"} {
		for _, groups := range [][]string{{"system:masters"}, nil} {
			other := "virtmesh:admin"
			if groups == nil && user == "helpdesk" {
				continue // he may act as a user of that name, who has no groups
			}
			if err := as(user, other, groups...); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot impersonate") {
				t.Errorf("%s as an administrator in %v: %v", user, groups, err)
			}
		}
	}
	if err := as("helpdesk", "virtmesh:admin"); !apierrors.IsForbidden(err) {
		t.Errorf("the name of an administrator alone gives rights: %v", err)
	}
	robot := "system:serviceaccount:blue:robot"
	if err := as("viewer", robot); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot impersonate") {
		t.Errorf("a viewer as a service account: %v", err)
	}
	if err := as("editor", robot); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `User "system:serviceaccount:blue:robot" cannot list`) {
		t.Errorf("an editor as a service account of his namespace: %v", err)
	}
	if err := as("editor", "system:serviceaccount:red:robot"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "cannot impersonate") {
		t.Errorf("an editor as a service account of another namespace: %v", err)
	}
}

// kubectl auth can-i, and its --list, say what requests then show.
func TestReviewsAnswerByRoles(t *testing.T) {
	h := startWithRoles(t)
	makeNamespaces(t, h)
	grantRoles(t, h)
	ctx := t.Context()
	viewer := h.client(t, "viewer", "people").AuthorizationV1()
	can := func(namespace, verb, group, resource string) authorizationv1.SubjectAccessReviewStatus {
		t.Helper()
		r, err := viewer.SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: namespace, Verb: verb, Group: group, Resource: resource}}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if s := can("blue", "list", "kubevirt.io", "virtualmachines"); !s.Allowed || s.Reason != `RBAC: allowed by RoleBinding "view/blue" of ClusterRole "view" to User "viewer"` {
		t.Errorf("machines in blue: %+v", s)
	}
	for _, no := range []authorizationv1.SubjectAccessReviewStatus{can("red", "list", "kubevirt.io", "virtualmachines"), can("blue", "list", "", "secrets"), can("", "list", "kubevirt.io", "virtualmachines")} {
		if no.Allowed || no.Denied {
			t.Errorf("what he may not: %+v", no)
		}
	}
	rules := func(client kubernetes.Interface, namespace string) authorizationv1.SubjectRulesReviewStatus {
		t.Helper()
		r, err := client.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Status.Incomplete || r.Status.EvaluationError != "" {
			t.Errorf("the list is incomplete: %+v", r.Status)
		}
		return r.Status
	}
	lists := func(s authorizationv1.SubjectRulesReviewStatus, resource string) bool {
		return slices.ContainsFunc(s.ResourceRules, func(r authorizationv1.ResourceRule) bool { return slices.Contains(r.Resources, resource) })
	}
	person := h.client(t, "viewer", "people")
	if blue := rules(person, "blue"); !lists(blue, "virtualmachines") || !lists(blue, "selfsubjectaccessreviews") || lists(blue, "secrets") || len(blue.NonResourceRules) == 0 {
		t.Errorf("in blue: %+v", blue)
	}
	if red := rules(person, "red"); lists(red, "virtualmachines") {
		t.Errorf("in red: %+v", red)
	}
	if s := rules(h.admin(t), "red"); len(s.ResourceRules) != 1 || !lists(s, "*") || len(s.NonResourceRules) != 1 {
		t.Errorf("an administrator: %+v", s)
	}
	if s := rules(h.client(t, "system:node:host1", "system:nodes"), "red"); lists(s, "*") {
		t.Errorf("a host: %+v", s)
	}
}

// A review carries the selectors of a request, and says which it does not understand.
func TestReviewsTakeSelectors(t *testing.T) {
	h := start(t)
	ask := func(label *authorizationv1.LabelSelectorAttributes, field *authorizationv1.FieldSelectorAttributes) (authorizationv1.SubjectAccessReviewStatus, error) {
		r, err := h.admin(t).AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "pods", LabelSelector: label, FieldSelector: field}}}, metav1.CreateOptions{})
		return r.Status, err
	}
	type labels = authorizationv1.LabelSelectorAttributes
	type fields = authorizationv1.FieldSelectorAttributes
	is := metav1.FieldSelectorRequirement{Key: "spec.nodeName", Operator: metav1.FieldSelectorOpIn, Values: []string{"host1"}}
	newer := metav1.FieldSelectorRequirement{Key: "spec.nodeName", Operator: "Near", Values: []string{"host1"}}
	for _, c := range []struct {
		label *labels
		field *fields
		note  string
	}{
		{&labels{RawSelector: "a=b,c"}, &fields{RawSelector: "spec.nodeName=host1"}, ""},
		{&labels{Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: metav1.LabelSelectorOpExists}}}, &fields{Requirements: []metav1.FieldSelectorRequirement{is}}, ""},
		{nil, &fields{Requirements: []metav1.FieldSelectorRequirement{is, newer}}, "spec.resourceAttributes.fieldSelector partially ignored due to parse error"},
		{&labels{RawSelector: "!!"}, &fields{Requirements: []metav1.FieldSelectorRequirement{newer}},
			"spec.resourceAttributes.fieldSelector ignored due to parse error; spec.resourceAttributes.labelSelector ignored due to parse error"},
	} {
		if s, err := ask(c.label, c.field); err != nil || !s.Allowed || s.EvaluationError != c.note {
			t.Errorf("%v %v: %+v, %v, want %q", c.label, c.field, s, err, c.note)
		}
	}
	for want, c := range map[string]struct {
		label *labels
		field *fields
	}{
		"spec.resourceAttributes.labelSelector.requirements":              {label: &labels{}},
		"spec.resourceAttributes.labelSelector.rawSelector":               {label: &labels{RawSelector: "a", Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Exists"}}}},
		"spec.resourceAttributes.labelSelector.requirements[0].values":    {label: &labels{Requirements: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In"}}}},
		"spec.resourceAttributes.fieldSelector.requirements[0].key":       {field: &fields{Requirements: []metav1.FieldSelectorRequirement{{Operator: "In", Values: []string{"a"}}}}},
		"spec.resourceAttributes.fieldSelector.requirements[0].values: F": {field: &fields{Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: "Exists", Values: []string{"a"}}}}},
	} {
		if _, err := ask(c.label, c.field); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// A rule for some names lets a client list and watch those, and no others.
func TestNamesInListsAndWatches(t *testing.T) {
	h := startWithRoles(t)
	makeNamespaces(t, h)
	ctx := t.Context()
	named := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "named"}, Rules: []rbacv1.PolicyRule{{
		Verbs: []string{"*"}, APIGroups: []string{""}, Resources: []string{"secrets"}, ResourceNames: []string{"one"}}}}
	if _, err := h.admin(t).RbacV1().Roles("blue").Create(ctx, named, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "named"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "named"}, Subjects: []rbacv1.Subject{person("eve")}}
	if _, err := h.admin(t).RbacV1().RoleBindings("blue").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	secrets := h.client(t, "eve").CoreV1().Secrets("blue")
	await(t, "the role counts", func() bool { _, err := secrets.Get(ctx, "one", getOptions); return err == nil })
	for selector, want := range map[string]bool{"metadata.name=one": true, "metadata.name=two": false, "metadata.name!=two": false, "": false} {
		_, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: selector})
		if allowed := err == nil; allowed != want || !allowed && !apierrors.IsForbidden(err) {
			t.Errorf("list %q: %v", selector, err)
		}
		w, err := secrets.Watch(ctx, metav1.ListOptions{FieldSelector: selector})
		if err == nil {
			w.Stop()
		}
		if allowed := err == nil; allowed != want || !allowed && !apierrors.IsForbidden(err) {
			t.Errorf("watch %q: %v", selector, err)
		}
	}
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create: %v", err)
	}
	if err := secrets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deletecollection: %v", err)
	}
}

// What one host is told of rights counts on the others, and a right that was taken away is gone.
func TestEveryHostKnowsTheRoles(t *testing.T) {
	mesh := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(func(c *raftstore.Config) { c.FeatureLevel = level.Known() }))
	ca := newAuthority(t)
	var hosts []*host
	for _, store := range mesh.Live() {
		hosts = append(hosts, serve(t, store, ca, withRoles(t, store)))
	}
	ctx := t.Context()
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "maps"}, Rules: []rbacv1.PolicyRule{rule("list", "core", "configmaps")}}
	if _, err := hosts[0].admin(t).RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "maps"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "maps"}, Subjects: []rbacv1.Subject{person("eve")}}
	if _, err := hosts[1].admin(t).RbacV1().RoleBindings("default").Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	last := hosts[2].client(t, "eve").CoreV1().ConfigMaps("default")
	allowed := func() bool { _, err := last.List(ctx, metav1.ListOptions{}); return err == nil }
	await(t, "another host knows the binding", allowed)
	if err := hosts[0].admin(t).RbacV1().RoleBindings("default").Delete(ctx, "maps", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, "another host knows that the binding is gone", func() bool { return !allowed() })
}

// A host's certificate gives no rights from the level on. Root on a host has all, by the way that
// only he can take.
func TestHostsHaveNoRights(t *testing.T) {
	for _, c := range []struct {
		levels         raftstore.LevelRange
		byPort, asRoot int
	}{
		{raftstore.LevelRange{Lowest: 1, Highest: level.Access - 1}, http.StatusOK, http.StatusOK},
		{level.Known(), http.StatusForbidden, http.StatusOK},
	} {
		store := raftstoretest.New(t, raftstoretest.WithConfig(func(r *raftstore.Config) { r.FeatureLevel = c.levels }))
		ca := newAuthority(t)
		config := api.DefaultConfig()
		config.Store, config.Instances, config.ClientCAs = objects.FromRaft(store, nil), newFakeInstances(), ca.pool
		withRoles(t, store)(&config)
		server, err := api.New(config)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(ca.issue(t, "system:node:host1", "system:nodes").Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range []struct {
			handler http.Handler
			want    int
		}{{server.Handler(), c.byPort}, {server.RootHandler(), c.asRoot}} {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/api/v1/namespaces/default/secrets", nil)
			r.TLS = &tls.ConnectionState{HandshakeComplete: true, PeerCertificates: []*x509.Certificate{leaf}}
			w := httptest.NewRecorder()
			way.handler.ServeHTTP(w, r)
			if w.Code != way.want {
				t.Errorf("at level %d: %d, want %d: %s", c.levels.Highest, w.Code, way.want, w.Body)
			}
		}
	}
}
