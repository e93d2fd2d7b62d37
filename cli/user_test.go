package cli

import (
	"crypto/x509/pkix"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// rolesAPI serves roles and bindings from memory, by their paths.
type rolesAPI struct {
	mu      sync.Mutex
	objects map[string]*rbacv1.RoleBinding // a ClusterRoleBinding has the same fields
	roles   []string
	made    int
	// preconditions are those of the deletions.
	preconditions []metav1.Preconditions
}

const rolesPrefix = "/apis/rbac.authorization.k8s.io/v1/"

func (a *rolesAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	path := strings.TrimPrefix(r.URL.Path, rolesPrefix)
	at := path[strings.LastIndex(path, "/")+1:]
	var answer any
	switch {
	case strings.Contains(path, "roles/") && r.Method == http.MethodGet:
		if !slices.Contains(a.roles, path) {
			fault.Write(w, fault.New(fault.NotFound, "%s is not there", path))
			return
		}
		answer = &rbacv1.ClusterRole{}
	case r.Method == http.MethodPost:
		var b rbacv1.RoleBinding
		if err := json.NewDecoder(r.Body).Decode(&b); err != nil {
			fault.Write(w, err)
			return
		}
		if a.objects[path+"/"+b.Name] != nil {
			fault.Write(w, fault.New(fault.AlreadyExists, "%s is there", b.Name))
			return
		}
		a.put(path, b)
		answer = &b
	case at == "rolebindings" || at == "clusterrolebindings":
		list := rbacv1.RoleBindingList{}
		for key, b := range a.objects {
			if (strings.HasPrefix(key, "cluster")) == (at == "clusterrolebindings") {
				list.Items = append(list.Items, *b)
			}
		}
		slices.SortFunc(list.Items, func(x, y rbacv1.RoleBinding) int { return strings.Compare(x.Name, y.Name) })
		answer = &list
	case a.objects[path] == nil:
		fault.Write(w, fault.New(fault.NotFound, "%s is not there", path))
		return
	case r.Method == http.MethodDelete:
		var options metav1.DeleteOptions
		if err := json.NewDecoder(r.Body).Decode(&options); err != nil || options.Preconditions == nil {
			fault.Write(w, fault.New(fault.Invalid, "without preconditions: %w", err))
			return
		}
		a.preconditions = append(a.preconditions, *options.Preconditions)
		delete(a.objects, path)
		answer = &metav1.Status{Status: metav1.StatusSuccess}
	default:
		answer = a.objects[path]
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// put stores a binding below a path such as namespaces/NS/rolebindings.
func (a *rolesAPI) put(path string, b rbacv1.RoleBinding) {
	a.made++
	b.UID, b.ResourceVersion = "uid", strconv.Itoa(a.made)
	if ns, found := strings.CutPrefix(path, "namespaces/"); found {
		b.Namespace, _, _ = strings.Cut(ns, "/")
	}
	a.objects[path+"/"+b.Name] = &b
}

// serveUsers makes a mesh and its roles reachable, and returns the flags that reach them.
func serveUsers(t *testing.T, mesh *fakeMesh) (*rolesAPI, []string) {
	t.Helper()
	roles := &rolesAPI{objects: map[string]*rbacv1.RoleBinding{}, roles: []string{"clusterroles/view", "clusterroles/edit", "namespaces/shop/roles/clerk"}}
	server := httptest.NewServer(admin.Beside(admin.NewHandler(mesh, admin.AsRoot), roles))
	t.Cleanup(server.Close)
	return roles, []string{"--kubeconfig", writeKubeconfig(t, server.URL)}
}

func TestUserAdd(t *testing.T) {
	mesh := &fakeMesh{}
	roles, connection := serveUsers(t, mesh)
	for _, test := range []struct {
		args        string
		code        int
		says, hints string // on stdout, on stderr
		binding     string // that is there afterwards
	}{
		{"add", 1, "", "name the user", ""},
		{"add alice bob", 1, "", "takes only NAME", ""},
		{"add alice --role clerk", 1, "", "--role needs --namespace", ""},
		{"add alice --namespace shop", 1, "", "--namespace needs --role or --cluster-role", ""},
		{"add alice --role clerk --cluster-role view -n shop", 1, "", "either --role or --cluster-role", ""},
		{"add alice --role owner -n shop", 4, "", "there is no Role owner in the namespace shop; 'virtmesh get roles -n shop' lists them", ""},
		{"add alice --cluster-role nothing", 4, "", "there is no ClusterRole nothing; 'virtmesh get clusterroles' lists them", ""},
		{"add alice --group dev --group ops --cluster-role view", 0, "user alice added, in dev, ops\nalice gets the ClusterRole view everywhere\n", "virtmesh kubeconfig --user alice --output FILE", "clusterrolebindings/virtmesh:user:alice:clusterrole:view"},
		{"add alice --cluster-role view", 0, "user alice unchanged, in dev, ops\nalice has the ClusterRole view everywhere\n", "", ""},
		{"add alice --cluster-role edit -n shop", 0, "alice gets the ClusterRole edit in the namespace shop\n", "", "namespaces/shop/rolebindings/virtmesh:user:alice:clusterrole:edit"},
		{"add bob --role clerk -n shop", 0, "user bob added\nbob gets the Role clerk in the namespace shop\n", "", "namespaces/shop/rolebindings/virtmesh:user:bob:role:clerk"},
		{"add alice --replace-groups --group qa", 0, "user alice changed, in qa; certificates that ended: 0\n", "virtmesh kubeconfig --user alice", ""},
		{"add carol -o json", 0, `"created": true`, "", ""},
	} {
		before := len(mesh.users)
		code, stdout, stderr := run(t, append(append(connection, "user"), strings.Fields(test.args)...)...)
		if code != test.code || !strings.Contains(stdout, test.says) || !strings.Contains(stderr, test.hints) {
			t.Errorf("%s: %d\n%s%s", test.args, code, stdout, stderr)
		}
		if code != 0 && len(mesh.users) != before {
			t.Errorf("%s: failed, and made a user", test.args)
		}
		if b := roles.objects[test.binding]; test.binding != "" && (b == nil || len(b.Subjects) != 1 || b.Subjects[0].Kind != "User" || b.Subjects[0].APIGroup != rbacv1.GroupName || b.RoleRef.APIGroup != rbacv1.GroupName) {
			t.Errorf("%s: the binding is %+v", test.args, b)
		}
	}
	if len(roles.objects) != 3 {
		t.Errorf("%d bindings", len(roles.objects))
	}
}

// TestUserAddBelowTheLevel: the mesh's refusal comes through, and with a role, of which there
// are none below the level, too.
func TestUserAddBelowTheLevel(t *testing.T) {
	mesh := wellMesh()
	mesh.userErr = fault.New(fault.Conflict, "a mesh at feature level 3 knows no users").WithRemedy("raise the mesh's level to 6 first: 'virtmesh level raise'")
	roles, connection := serveUsers(t, mesh)
	roles.roles = nil
	for _, args := range []string{"user add alice", "user add alice --cluster-role view"} {
		if code, _, stderr := run(t, append(connection, strings.Fields(args)...)...); code == 0 || !strings.Contains(stderr, "feature level 3 knows no users") || !strings.Contains(stderr, "'virtmesh level raise'") {
			t.Errorf("%s: %d %s", args, code, stderr)
		}
	}
	mesh.status.Level.Mesh = level.Access
	if code, _, stderr := run(t, append(connection, "user", "add", "alice", "--cluster-role", "view")...); code != 4 || !strings.Contains(stderr, "there is no ClusterRole view") {
		t.Errorf("at the level: %d %s", code, stderr)
	}
}

func TestUserRemoveAndList(t *testing.T) {
	expires := time.Now().Add(time.Hour)
	mesh := &fakeMesh{users: map[string]admin.User{
		"alice": {Name: "alice", Groups: []string{"dev", "ops"}, CreatedBy: "root", Certificates: []admin.Certificate{{User: "alice", OfUser: true, Expires: expires}}},
		"bob":   {Name: "bob", CreatedBy: "ada"},
	}}
	roles, connection := serveUsers(t, mesh)
	add := func(path, name, role string, users ...string) {
		b := rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: role}}
		for _, user := range users {
			b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: "User", APIGroup: rbacv1.GroupName, Name: user})
		}
		roles.put(path, b)
	}
	add("clusterrolebindings", "virtmesh:user:alice:clusterrole:view", "view", "alice")
	add("namespaces/shop/rolebindings", "virtmesh:user:alice:clusterrole:edit", "edit", "alice", "bob") // somebody added bob
	add("namespaces/shop/rolebindings", "clerks", "clerk", "alice")
	add("namespaces/shop/rolebindings", "virtmesh:user:alice2:clusterrole:edit", "edit", "alice2")

	code, stdout, stderr := run(t, append(connection, "user", "ls")...)
	alice, bob := strings.Fields(lineWith(stdout, "alice")), strings.Fields(lineWith(stdout, "bob"))
	if code != 0 || stderr != "" || !strings.Contains(strings.Join(alice, " "), "alice dev, ops 1 "+expires.Local().Format(time.DateTime)+" view, shop/clerk, shop/edit") || !slices.Equal(bob, []string{"bob", "-", "0", "-", "shop/edit"}) {
		t.Errorf("ls: %d\n%s%s", code, stdout, stderr)
	}
	if _, stdout, _ := run(t, append(connection, "user", "ls", "-o", "wide")...); !strings.Contains(lineWith(stdout, "bob"), "RoleBinding shop/virtmesh:user:alice:clusterrole:edit") || !strings.Contains(lineWith(stdout, "bob"), "ada") {
		t.Errorf("ls -o wide:\n%s", stdout)
	}
	var listed []listedUser
	if _, stdout, _ := run(t, append(connection, "user", "ls", "-o", "yaml")...); yaml.Unmarshal([]byte(stdout), &listed) != nil || len(listed) != 2 || listed[0].Name != "alice" || len(listed[0].Bindings) != 3 || listed[0].Bindings[0].Role != "view" {
		t.Errorf("ls -o yaml:\n%s", stdout)
	}

	code, stdout, stderr = run(t, append(connection, "user", "rm", "alice")...)
	if code != 0 || !strings.Contains(stdout, "user alice removed; certificates that ended: 1\nClusterRoleBinding virtmesh:user:alice:clusterrole:view removed\n") ||
		!strings.Contains(stderr, "RoleBinding shop/clerks still names alice") || !strings.Contains(stderr, "RoleBinding shop/virtmesh:user:alice:clusterrole:edit still names alice") {
		t.Errorf("rm: %d\n%s%s", code, stdout, stderr)
	}
	if len(roles.objects) != 3 || len(roles.preconditions) != 1 || *roles.preconditions[0].ResourceVersion != "1" || mesh.users["alice"].Name != "" {
		t.Errorf("left: %v, deleted by %+v", roles.objects, roles.preconditions)
	}
	if code, _, stderr := run(t, append(connection, "user", "rm", "alice")...); code != 4 || !strings.Contains(stderr, `no user "alice"`) {
		t.Errorf("rm again: %d %s", code, stderr)
	}
	// A removal that ended after its first step is completed.
	add("clusterrolebindings", "virtmesh:user:alice:clusterrole:view", "view", "alice")
	if code, stdout, stderr := run(t, append(connection, "user", "rm", "alice", "-o", "json")...); code != 0 || !strings.Contains(stdout, `"removedBindings"`) || !strings.Contains(stdout, `"leftBindings"`) {
		t.Errorf("rm of what is left: %d\n%s%s", code, stdout, stderr)
	}
}

// TestUserAddTellsOfBindingsFromBefore: whoever adds a user learns what a user of that name has
// already, such as one who was removed.
func TestUserAddTellsOfBindingsFromBefore(t *testing.T) {
	mesh := &fakeMesh{}
	roles, connection := serveUsers(t, mesh)
	roles.put("namespaces/shop/rolebindings", rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "clerks"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "clerk"},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: "alice"}}})
	for _, test := range []struct {
		args string
		told bool
	}{
		{"user add alice --cluster-role view", true},
		{"user add alice --cluster-role view", false}, // he is there, and 'user ls' says it
		{"user rm alice", false},
		{"user add alice -o json", true},
		{"user add bob", false},
	} {
		code, stdout, stderr := run(t, append(connection, strings.Fields(test.args)...)...)
		told := strings.Contains(stderr, "RoleBinding shop/clerks was there before and names alice: he has the Role clerk in the namespace shop")
		if code != 0 || told != test.told || strings.Contains(stderr, "clusterrole:view was there") || strings.HasSuffix(test.args, "json") != strings.Contains(stdout, `"namedBefore"`) {
			t.Errorf("%s: %d\n%s%s", test.args, code, stdout, stderr)
		}
	}
}

// TestUserThatCannotBeRead: a spoilt record is shown, and hides no other.
func TestUserThatCannotBeRead(t *testing.T) {
	mesh := &fakeMesh{users: map[string]admin.User{"alice": {Name: "alice", Groups: []string{"dev"}}, "bob": {Name: "bob", Unreadable: "it is spoilt"}}}
	_, connection := serveUsers(t, mesh)
	for _, wide := range [][]string{nil, {"-o", "wide"}} {
		code, stdout, stderr := run(t, append(append(connection, "user", "ls"), wide...)...)
		if code != 0 || !strings.Contains(lineWith(stdout, "bob"), "(unreadable)") || !strings.Contains(lineWith(stdout, "alice"), "dev") || !strings.Contains(stderr, "it is spoilt") || !strings.Contains(stderr, "virtmesh user rm bob") {
			t.Errorf("user ls %s: %d\n%s%s", wide, code, stdout, stderr)
		}
	}
}

// TestNoAdministratorForAUser: a host of an earlier version makes administrators of all; what it
// gives for a user is not handed out.
func TestNoAdministratorForAUser(t *testing.T) {
	for args, refused := range map[string]bool{"--user alice": true, "--user alice --admin": false, "": false, "--user " + identity.AdminName: false} {
		_, certificate := newCertificateOf(t, 8*time.Hour, pkix.Name{CommonName: "alice", Organization: []string{identity.AdminOrganization}})
		connection := serve(t, &fakeMesh{issues: &admin.Credentials{User: "alice", Certificate: string(certificate)}})
		out := t.TempDir() + "/k"
		code, _, stderr := run(t, append(append(connection, "kubeconfig", "--output", out), strings.Fields(args)...)...)
		_, err := os.Stat(out)
		if refused != (code != 0) || refused != os.IsNotExist(err) || refused != strings.Contains(stderr, "makes certificates of administrators only") {
			t.Errorf("%q: %d %s, the file: %v", args, code, stderr, err)
		}
	}
}

// TestKubeconfigOfAUser: the command says whose it is to be, and tells whose it has become.
func TestKubeconfigOfAUser(t *testing.T) {
	_, certificate := newCertificate(t, 8*time.Hour)
	for args, c := range map[string]struct {
		ofUser, administrator bool
		says                  string
	}{
		"--user alice":       {true, false, ", of the user alice, valid until"},
		"--user ada --admin": {false, true, ", of an administrator, valid until"},
		"":                   {false, false, ", of an administrator, valid until"},
	} {
		mesh := &fakeMesh{issues: &admin.Credentials{User: "alice", OfUser: c.ofUser, Certificate: string(certificate), KeyHash: "0a"}}
		connection := serve(t, mesh)
		code, _, stderr := run(t, append(append(connection, "kubeconfig", "--output", t.TempDir()+"/k"), strings.Fields(args)...)...)
		if code != 0 || !strings.Contains(stderr, c.says) || mesh.asked.Administrator != c.administrator {
			t.Errorf("%q: %d %s, asked %+v", args, code, stderr, mesh.asked)
		}
	}
}
