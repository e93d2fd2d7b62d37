package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"virtmesh/agent/api"
	"virtmesh/agent/api/access"
	"virtmesh/agent/kinds"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/stewards/roles"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// startWithRoles serves the API of a mesh at level.Access until the test ends.
func startWithRoles(t testing.TB) *host {
	t.Helper()
	store := raftstoretest.New(t, raftstoretest.WithConfig(func(c *raftstore.Config) { c.FeatureLevel = level.Known() }))
	return serve(t, store, newAuthority(t), withRoles(t, store))
}

// withRoles lets roles decide. They are followed until the test ends.
func withRoles(t testing.TB, store *raftstore.Store) func(*api.Config) {
	t.Helper()
	config := objects.DefaultCacheConfig()
	config.Store, config.Logger = objects.FromRaft(store, nil), slog.New(slog.DiscardHandler)
	cache, err := objects.NewCache(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); cache.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return func(c *api.Config) {
		c.Authorizer = access.New(access.Config{Cache: cache, Level: store.FeatureLevel})
	}
}

// rule makes a rule of lists in words; "core" stands for the group without a name.
func rule(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{
		Verbs: strings.Fields(verbs), APIGroups: strings.Split(strings.ReplaceAll(groups, "core", ""), " "), Resources: strings.Fields(resources),
	}
}

// bootstrap returns the rules of the roles that a mesh has from the start, with those that they
// gather, and a few more that testdata/access.txt has somebody for.
func bootstrap() map[string][]rbacv1.PolicyRule {
	rules := map[string][]rbacv1.PolicyRule{
		"starter":     {rule("get", "kubevirt.io", "virtualmachines"), rule("update", "subresources.kubevirt.io", "virtualmachines/start")},
		"impersonate": {rule("impersonate", "core", "users")},
	}
	gatheredBy := map[string][]string{"view": {"view", "edit", "admin"}, "edit": {"edit", "admin"}, "admin": {"admin"}}
	for _, o := range roles.Bootstrap() {
		role, ok := o.(*rbacv1.ClusterRole)
		if !ok {
			continue
		}
		rules[role.Name] = append(rules[role.Name], role.Rules...)
		for label, names := range gatheredBy {
			if role.AggregationRule != nil || role.Labels["rbac.authorization.k8s.io/aggregate-to-"+label] != "true" {
				continue
			}
			for _, name := range names {
				rules[name] = append(rules[name], role.Rules...)
			}
		}
	}
	return rules
}

// person is the subject of a binding.
func person(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: name}
}

// grantRoles writes the roles and who has them, and waits until they count.
func grantRoles(t testing.TB, h *host) {
	t.Helper()
	client := h.admin(t).RbacV1()
	for name, rules := range bootstrap() {
		if _, err := client.ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for role, subject := range map[string]rbacv1.Subject{
		"admin": person("owner"), "edit": person("editor"), "view": person("viewer"),
		"starter": {Kind: rbacv1.ServiceAccountKind, Namespace: "blue", Name: "robot"},
	} {
		b := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: role}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{subject}}
		if _, err := client.RoleBindings("blue").Create(t.Context(), b, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range roles.Bootstrap() {
		if b, ok := o.(*rbacv1.ClusterRoleBinding); ok {
			if _, err := client.ClusterRoleBindings().Create(t.Context(), b, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	viewer := kubernetes.NewForConfigOrDie(h.config(t, "viewer", "people"))
	await(t, "the roles count", func() bool {
		_, err := viewer.CoreV1().ConfigMaps("blue").List(t.Context(), metav1.ListOptions{})
		_, versionErr := viewer.Discovery().ServerResourcesForGroupVersion("v1")
		return err == nil && versionErr == nil
	})
}

// await waits until a condition holds.
func await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in a minute it was not so that %s", what)
		}
	}
}

// makeNamespaces makes blue and red, each with one object of the kinds of testdata/access.txt.
func makeNamespaces(t testing.TB, h *host) {
	t.Helper()
	client := h.dynamic(t)
	for _, namespace := range []string{"blue", "red"} {
		if _, err := h.admin(t).CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, kind := range []string{"VirtualMachine", "VirtualMachineInstance", "Secret", "Node", "Role", "ClusterRole", "RoleBinding", "VirtualMachineInstancetype", "VirtualMachineClusterPreference"} {
		k := kindNamed(t, kind)
		for _, namespace := range []string{"blue", "red"} {
			var to dynamic.ResourceInterface = client.Resource(k.GVK.GroupVersion().WithResource(k.Resource))
			if k.Namespaced {
				to = to.(dynamic.NamespaceableResourceInterface).Namespace(namespace)
			} else if namespace == "red" {
				continue
			}
			obj := parse(t, manifestOf(k, "one"))
			if _, err := to.Create(t.Context(), obj, metav1.CreateOptions{}); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
		}
	}
}

func kindNamed(t testing.TB, name string) *kinds.Kind {
	t.Helper()
	for _, k := range kinds.All() {
		if k.GVK.Kind == name {
			return k
		}
	}
	t.Fatalf("no kind %s", name)
	return nil
}

// manifestOf returns the minimal manifest of a kind with a name.
func manifestOf(k *kinds.Kind, name string) string {
	least := minimal[k.GVK.Kind]
	if k.GVK.Kind == "RoleBinding" { // to a role that who may make it has
		least = `{roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}, subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: somebody}]}`
	}
	body := strings.TrimSuffix(strings.TrimPrefix(least, "{"), "}")
	return fmt.Sprintf("{apiVersion: %s, kind: %s, metadata: {name: %s}, %s}", k.GVK.GroupVersion(), k.GVK.Kind, name, body)
}

// identities returns how each identity of testdata/access.txt reaches the API.
func identities(t testing.TB, h *host) map[string]*http.Client {
	t.Helper()
	robot := h.adminConfig(t)
	robot.Impersonate.UserName = "system:serviceaccount:blue:robot"
	clients := map[string]*http.Client{"nobody": h.anonymous()}
	for name, config := range map[string]*rest.Config{
		"root": h.adminConfig(t), "robot": robot, "host": h.config(t, "system:node:host1", "system:nodes"),
		"owner": h.config(t, "owner", "people"), "editor": h.config(t, "editor", "people"), "viewer": h.config(t, "viewer", "people"),
	} {
		client, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		clients[name] = client
	}
	return clients
}

// Every identity may do what is written down, and nothing else, in real requests.
func TestAccessMatrix(t *testing.T) {
	h := startWithRoles(t)
	makeNamespaces(t, h)
	grantRoles(t, h)
	clients := identities(t, h)
	columns := []string{"root", "owner", "editor", "viewer", "robot", "host", "nobody"}
	file, err := os.Open("testdata/access.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	requests := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		cells := strings.Fields(lines.Text())
		if len(cells) == 0 || strings.HasPrefix(cells[0], "#") {
			continue
		}
		if len(cells) != 2+len(columns) {
			t.Fatalf("testdata/access.txt: %d cells in %q", len(cells), lines.Text())
		}
		for i, who := range columns {
			for _, namespace := range []string{"blue", "red"} {
				code := h.send(t, clients[who], cells[0], cells[1], namespace)
				requests++
				allowed := code != http.StatusForbidden && code != http.StatusUnauthorized
				if want := cells[2+i] == "all" || cells[2+i] == namespace; allowed != want {
					t.Errorf("%s: %s %s in %s answers %d, want allowed: %v", who, cells[0], cells[1], namespace, code, want)
				}
				if allowed && (code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code >= 500) {
					t.Errorf("%s: %s %s in %s answers %d: the test does not ask what it means to", who, cells[0], cells[1], namespace, code)
				}
			}
		}
	}
	t.Logf("%d requests", requests)
}

// send makes a request that changes nothing, and returns the status of the answer.
func (h *host) send(t testing.TB, client *http.Client, verb, resource, namespace string) int {
	t.Helper()
	method, url, body, contentType := request(t, verb, resource, namespace)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel() // ends a watch
	r, err := http.NewRequestWithContext(ctx, method, h.url+url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", contentType)
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if !strings.Contains(url, "watch=true") {
		_, _ = io.Copy(io.Discard, answer.Body)
	}
	return answer.StatusCode
}

// request returns the request that a line of testdata/access.txt means.
func request(t testing.TB, verb, resource, namespace string) (method, url, body, contentType string) {
	t.Helper()
	if verb == "path" {
		return http.MethodGet, resource, "", "application/json"
	}
	group, resource, _ := strings.Cut(resource, "/")
	resource, subresource, _ := strings.Cut(resource, "/")
	k, ok := kinds.ByResource(schema.GroupResource{Group: strings.TrimPrefix(group, "subresources."), Resource: resource})
	root := "/apis/" + group + "/v1/"
	switch {
	case group == "":
		root = "/api/v1/"
	case group == "authorization.k8s.io":
		return http.MethodPost, root + resource, `{"spec":{"user":"eve","resourceAttributes":{"verb":"get","resource":"pods"}}}`, "application/json"
	}
	if !ok {
		t.Fatalf("no resource %s of %q", resource, group)
	}
	if k.GVK.Group == group && group != "" {
		root = "/apis/" + k.GVK.GroupVersion().String() + "/"
	}
	name := "one"
	if resource == "namespaces" {
		name = namespace
	}
	if everywhere := strings.HasSuffix(verb, "-everywhere"); k.Namespaced && !everywhere {
		root += "namespaces/" + namespace + "/"
	}
	all, one := root+resource, root+resource+"/"+name
	if subresource != "" {
		one += "/" + subresource
	}
	const json, dry = "application/json", "?dryRun=All"
	switch verb {
	case "get":
		return http.MethodGet, one, "", json
	case "list", "list-everywhere":
		return http.MethodGet, all, "", json
	case "watch", "watch-everywhere":
		return http.MethodGet, all + "?watch=true", "", json
	case "create":
		return http.MethodPost, all + dry, manifestOf(k, "two"), "application/yaml"
	case "update":
		if subresource != "" {
			return http.MethodPut, one, `{"dryRun":["All"]}`, json
		}
		return http.MethodPut, one + dry, manifestOf(k, name), "application/yaml"
	case "patch":
		return http.MethodPatch, one + dry, `{"metadata":{"annotations":{"a":"b"}}}`, "application/merge-patch+json"
	case "apply":
		return http.MethodPatch, root + resource + "/three" + dry + "&fieldManager=test", manifestOf(k, "three"), "application/apply-patch+yaml"
	case "delete":
		return http.MethodDelete, one + dry, "", json
	case "deletecollection":
		return http.MethodDelete, all + dry, "", json
	}
	t.Fatalf("no verb %s", verb)
	return "", "", "", ""
}
