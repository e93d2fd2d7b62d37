package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"virtmesh/agent/fault"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// run executes a command line as a user would type it.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runWith(t, "", args...)
}

// runPlain is run in the environment as it is, so that tests can be parallel.
func runPlain(args ...string) (code int, stdout, stderr string) {
	var out, err bytes.Buffer
	code = Run(append([]string{"virtmesh"}, args...), strings.NewReader(""), &out, &err)
	return code, out.String(), err.String()
}

// runWith is run with a KUBECONFIG.
func runWith(t *testing.T, kubeconfig string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	t.Setenv("KUBECONFIG", kubeconfig)
	return runPlain(args...)
}

// serve makes a mesh reachable and returns the flags that reach it.
func serve(t *testing.T, mesh admin.Mesh) []string {
	t.Helper()
	server := httptest.NewServer(admin.NewHandler(mesh, admin.AsRoot))
	t.Cleanup(server.Close)
	return []string{"--kubeconfig", writeKubeconfig(t, server.URL)}
}

// serveLocally serves mesh as a local agent does, and returns the flags that reach it.
func serveLocally(t *testing.T, mesh admin.Mesh) []string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: admin.NewHandler(mesh, admin.AsRoot)}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return []string{"--socket", socket}
}

func writeKubeconfig(t *testing.T, url string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["m"] = &clientcmdapi.Cluster{Server: url}
	config.AuthInfos["m"] = &clientcmdapi.AuthInfo{}
	config.Contexts["m"] = &clientcmdapi.Context{Cluster: "m", AuthInfo: "m"}
	config.CurrentContext = "m"
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func wellMesh() *fakeMesh {
	return &fakeMesh{status: admin.Status{
		Host: "host1", MeshID: "m1", Leader: "host1", Term: 3, Revision: 42,
		Members: []admin.Member{
			{Name: "host1", State: "alive", Role: "leader", MeshAddress: "192.0.2.1:7443", KVM: true, Version: "2.0.0", FeatureLevel: 4},
			{Name: "host2", State: "alive", Role: "voter", MeshAddress: "192.0.2.2:7443", Lag: -1, Version: "2.0.0", FeatureLevel: 4},
		},
		Level: &admin.Level{Mesh: 3, Known: 4, Reachable: 4, Newest: 4, Policy: "Manual", Brings: []level.Level{{Number: 4, Brings: "machines that fly"}}},
	}}
}

func TestStatus(t *testing.T) {
	code, stdout, stderr := run(t, append(serve(t, wellMesh()), "status")...)
	if code != 0 || stderr != "" {
		t.Fatalf("exit code %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"m1, seen from host1", "2 of 2 alive, 2 voters", "host1 (term 3)", "Revision: 42", "emulation", "kvm", "?"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("output lacks %q:\n%s", want, stdout)
		}
	}
}

func TestStatusWithWarningsExits3(t *testing.T) {
	mesh := wellMesh()
	mesh.status.Leader = ""
	mesh.status.Members[1].State = "dead"
	mesh.status.Warnings = []string{"host2 is dead"}
	connection := serve(t, mesh)

	code, stdout, stderr := run(t, append(connection, "status")...)
	if code != 3 || stderr != "" {
		t.Errorf("exit code %d, stderr %q; want 3 and nothing", code, stderr)
	}
	for _, want := range []string{"Warning: host2 is dead", "1 of 2 alive", "no quorum"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("output lacks %q:\n%s", want, stdout)
		}
	}

	code, stdout, _ = run(t, append(connection, "status", "-o", "json")...)
	var status admin.Status
	if err := json.Unmarshal([]byte(stdout), &status); err != nil || code != 3 {
		t.Errorf("exit code %d, %v; want 3 and JSON, got %s", code, err, stdout)
	}
	if len(status.Warnings) != 1 || len(status.Members) != 2 {
		t.Errorf("JSON lost something: %+v", status)
	}
}

func TestTokens(t *testing.T) {
	mesh := &fakeMesh{tokens: []admin.Token{
		{ID: "t-valid", Expires: time.Now().Add(time.Hour)},
		{ID: "t-expired", Expires: time.Now().Add(-time.Hour)},
		{ID: "t-used", Expires: time.Now().Add(-time.Hour), UsedBy: "host2"},
	}}
	connection := serve(t, mesh)

	code, stdout, stderr := run(t, append(connection, "token", "create", "--ttl", "30m")...)
	if code != 0 || stdout != "vm1.secret\n" || mesh.ttl != 30*time.Minute {
		t.Errorf("create: exit code %d, ttl %s, output %q %q", code, mesh.ttl, stdout, stderr)
	}
	code, _, stderr = run(t, append(connection, "token", "create", "--ttl", "0s")...)
	if code != 1 || !strings.Contains(stderr, "ttl must be") || strings.Count(stderr, "\n") != 1 {
		t.Errorf("create without a lifetime: exit code %d, stderr %q", code, stderr)
	}
	_, stdout, _ = run(t, append(connection, "token", "ls")...)
	for id, state := range map[string]string{"t-valid": "valid", "t-expired": "expired", "t-used": "used"} {
		if line := lineWith(stdout, id); !strings.Contains(line, " "+state) {
			t.Errorf("token %s is listed as %q, want %s", id, line, state)
		}
	}
	code, stdout, _ = run(t, append(connection, "token", "revoke", "a", "b/c")...)
	if code != 0 || strings.Join(mesh.revoked, " ") != "a b/c" || strings.Count(stdout, "revoked") != 2 {
		t.Errorf("revoke: exit code %d, revoked %q, output %q", code, mesh.revoked, stdout)
	}
	code, _, stderr = run(t, append(connection, "token", "revoke", "gone")...)
	if code != 4 || stderr != "virtmesh: token gone: not found\n" {
		t.Errorf("revoke what is not there: exit code %d, stderr %q", code, stderr)
	}
}

// tokenNamed is a token that can be used.
func tokenNamed(id string) admin.Token {
	return admin.Token{ID: id, Expires: time.Now().Add(time.Hour)}
}

func lineWith(text, word string) string {
	for line := range strings.Lines(text) {
		if strings.Contains(line, word) {
			return line
		}
	}
	return ""
}

func TestKubeconfigCommand(t *testing.T) {
	mesh := &fakeMesh{}
	connection := serve(t, mesh)
	for _, test := range []struct {
		args         []string
		name, server string
	}{
		{nil, "virtmesh", "https://192.0.2.1:7443"},
		{[]string{"--name", "prod", "--server", "https://mesh.example"}, "prod", "https://mesh.example"},
	} {
		code, stdout, stderr := run(t, append(append(connection, "kubeconfig"), test.args...)...)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		config, err := clientcmd.Load([]byte(stdout))
		if err != nil {
			t.Fatalf("the output is no kubeconfig: %v", err)
		}
		cluster, user := config.Clusters[test.name], config.AuthInfos[test.name]
		if config.CurrentContext != test.name || cluster == nil || cluster.Server != test.server || string(cluster.CertificateAuthorityData) != "the CA" {
			t.Errorf("got context %q, cluster %+v", config.CurrentContext, cluster)
		}
		if user == nil || string(user.ClientCertificateData) != "the certificate" || !strings.Contains(string(user.ClientKeyData), "PRIVATE KEY") {
			t.Errorf("got user %+v", user)
		}
	}
	if csr := string(mesh.csr); !strings.Contains(csr, "CERTIFICATE REQUEST") || strings.Contains(csr, "PRIVATE") {
		t.Errorf("the mesh was sent %q", csr)
	}
}

func TestNodeRemoveAndLeave(t *testing.T) {
	mesh := wellMesh()
	connection := serve(t, mesh)
	if code, _, stderr := run(t, append(connection, "node", "remove", "host2")...); code != 0 || strings.Join(mesh.removed, " ") != "host2" || strings.Contains(stderr, "CA") {
		t.Errorf("remove: exit code %d, removed %q, stderr %q", code, mesh.removed, stderr)
	}
	if mesh.removedBy != "root" {
		t.Errorf("removed by %q", mesh.removedBy)
	}
	_, stdout, stderr := run(t, append(connection, "node", "remove", "host3")...)
	if !strings.Contains(stderr, "host3 may still have the key of the mesh's CA") || !strings.Contains(stderr, "virtmesh secrets rotate-key") {
		t.Errorf("remove a voter: %q", stderr)
	}
	if want := "host host3 removed\njoin tokens that were not used are revoked: abc\nhost3 could read these Secrets; change what is in them:\n  default/password\n"; stdout != want || mesh.keptKeys {
		t.Errorf("%q, keys kept: %v; want %q", stdout, mesh.keptKeys, want)
	}
	_, stdout, stderr = run(t, append(connection, "node", "remove", "--keep-keys", "host3")...)
	if !mesh.keptKeys || !strings.Contains(stderr, "host3 still knows the gossip key") || !strings.Contains(stdout, "default/password") {
		t.Errorf("--keep-keys: %v, %q, %q", mesh.keptKeys, stdout, stderr)
	}
}

// The key is replaced in the name of who asks; --status changes nothing; programs get JSON.
func TestGossipRotateKey(t *testing.T) {
	mesh := wellMesh()
	mesh.gossip = admin.GossipKeys{Accepted: 1, Have: []string{"host1"}, Off: []string{"host2"}}
	connection := serve(t, mesh)
	code, stdout, stderr := run(t, append(connection, "gossip", "rotate-key", "--status")...)
	if code != 0 || mesh.rotatedBy != "" || !strings.Contains(stdout, "the one that the mesh was made with; hosts that have it: 1; off, and get it when they come back: host2") {
		t.Errorf("exit code %d, by %q, %q, %q", code, mesh.rotatedBy, stdout, stderr)
	}
	code, stdout, stderr = run(t, append(connection, "gossip", "rotate-key", "--output", "json")...)
	var keys admin.GossipKeys
	if err := json.Unmarshal([]byte(stdout), &keys); err != nil || code != 0 || mesh.rotatedBy != "root" || keys.Generation != 3 {
		t.Errorf("exit code %d, by %q, %q, %q, %v", code, mesh.rotatedBy, stdout, stderr, err)
	}
}

// TestForceSaysWhatItRisks: nobody removes a host that may still run its guests without
// having read what that can do to them.
func TestForceSaysWhatItRisks(t *testing.T) {
	mesh := wellMesh()
	connection := serve(t, mesh)
	code, _, stderr := run(t, append(connection, "node", "remove", "--force", "host2")...)
	for _, want := range []string{"host2", "run twice", "switch it off", "--force --yes"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("the risk is told without %q: %s", want, stderr)
		}
	}
	if code != 1 || len(mesh.removed) != 0 {
		t.Errorf("exit code %d, removed %v", code, mesh.removed)
	}
	if code, _, stderr := run(t, append(connection, "node", "remove", "--force", "--yes", "host2")...); code != 0 || !mesh.removedByForce {
		t.Errorf("with --yes: exit code %d, force %v, %q", code, mesh.removedByForce, stderr)
	}
	if code, _, stderr := run(t, append(connection, "node", "remove", "host2")...); code != 0 || mesh.removedByForce {
		t.Errorf("without --force: exit code %d, force %v, %q", code, mesh.removedByForce, stderr)
	}
}

// TestLeaveIsAboutThisHost: a shell whose KUBECONFIG names another host, or another mesh,
// must not take that host out.
func TestLeaveIsAboutThisHost(t *testing.T) {
	other, own := wellMesh(), wellMesh()
	kubeconfig := serve(t, other)
	local := serveLocally(t, own)
	if code, _, stderr := runWith(t, kubeconfig[1], append(local, "agent", "leave")...); code != 5 || !strings.Contains(stderr, "stop them first") {
		t.Errorf("leave with instances: exit code %d, stderr %q", code, stderr)
	}
	own.mayLeave, other.mayLeave = true, true
	code, stdout, stderr := runWith(t, kubeconfig[1], append(local, "agent", "leave")...)
	if code != 0 || !strings.Contains(stdout, "host1, this host, has left the mesh") || own.left != 1 || other.left != 0 {
		t.Errorf("leave: exit code %d, %q %q; %d left here, %d elsewhere", code, stdout, stderr, own.left, other.left)
	}
	if code, _, stderr := run(t, append(kubeconfig, "agent", "leave")...); code != 1 || !strings.Contains(stderr, "--kubeconfig has no effect here") {
		t.Errorf("leave by a kubeconfig: exit code %d, stderr %q", code, stderr)
	}
	if code, _, stderr := runWith(t, kubeconfig[1], "--socket", filepath.Join(t.TempDir(), "none"), "agent", "leave"); code != 1 || !strings.Contains(stderr, "no agent runs on this host") {
		t.Errorf("leave without an agent: exit code %d, stderr %q", code, stderr)
	}
	if other.left != 0 {
		t.Error("another host was taken out")
	}
}

// The line names what to do, and the exit code tells a script.
func TestFaultsReachTheExitCode(t *testing.T) {
	for code, want := range map[fault.Code]int{
		fault.Invalid: 1, fault.Internal: 1, fault.NotFound: 4, fault.NoHost: 4, fault.Conflict: 5, fault.Forbidden: 6,
		fault.Unavailable: 7, fault.Unreachable: 7, fault.TooMany: 7, fault.UnknownOutcome: 8,
	} {
		mesh := wellMesh()
		mesh.removeErr = fmt.Errorf("remove host2: %w", fault.New(code, "it is so").About("host2").WithRemedy("do this"))
		got, _, stderr := run(t, append(serve(t, mesh), "node", "remove", "host2")...)
		if got != want || stderr != "virtmesh: remove host2: it is so; do this\n" {
			t.Errorf("%s: exit code %d, stderr %q, want %d", code, got, stderr, want)
		}
	}
}

func TestKubeconfigOfTheEnvironment(t *testing.T) {
	path := serve(t, wellMesh())[1]
	if code, stdout, stderr := runWith(t, "/nonexistent/one:"+path, "status"); code != 0 || !strings.Contains(stdout, "seen from host1") {
		t.Errorf("a list with a missing file: exit code %d, %q %q", code, stdout, stderr)
	}
	if code, _, stderr := runWith(t, "/nonexistent/one", "status"); code != 1 || !strings.Contains(stderr, "no kubeconfig at /nonexistent/one") {
		t.Errorf("a missing file: exit code %d, stderr %q", code, stderr)
	}
}

func TestSocketIsUsedWithoutKubeconfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: admin.NewHandler(wellMesh(), admin.AsRoot)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	if code, stdout, stderr := run(t, "--socket", path, "status"); code != 0 || !strings.Contains(stdout, "seen from host1") {
		t.Errorf("exit code %d, %q %q", code, stdout, stderr)
	}
	if code, _, stderr := run(t, "--socket", path, "--host", "host2", "status"); code != 1 || !strings.Contains(stderr, "--host needs a kubeconfig") {
		t.Errorf("--host over the socket: exit code %d, stderr %q", code, stderr)
	}
}

func TestMistakes(t *testing.T) {
	down := httptest.NewServer(http.NotFoundHandler())
	unreachable := writeKubeconfig(t, down.URL)
	down.Close()
	for _, test := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"frob"}, 2, `no command "virtmesh frob"`},
		{[]string{"vm", "frob"}, 2, `no command "virtmesh vm frob"`},
		{[]string{"vm", "ls", "--nope"}, 1, "-nope"},
		{[]string{"vm", "ls", "-o", "xml"}, 1, "is not json, yaml or wide"},
		{[]string{"vm", "start"}, 1, "name at least one virtual machine"},
		{[]string{"vm", "create"}, 1, "name the new virtual machine"},
		{[]string{"vm", "create", "web"}, 1, "--image"},
		{[]string{"vm", "create", "web", "--image", "i", "--memory", "much", "--dry-run"}, 1, `--memory "much"`},
		{[]string{"agent", "join", "192.0.2.1"}, 1, "--token"},
		{[]string{"agent", "recover"}, 1, "--yes"},
		{[]string{"agent", "resync"}, 1, "--yes"},
		{[]string{"agent", "backup"}, 1, "name the file"},
		{[]string{"agent", "run", "--config", "/nonexistent/agent.yaml"}, 1, "belongs to no mesh"},
		{[]string{"token", "revoke"}, 1, "virtmesh token ls"},
		{[]string{"completion", "tcsh"}, 1, `not for "tcsh"`},
		{[]string{"--kubeconfig", unreachable, "status"}, 1, "reach the agent"},
		{[]string{"--kubeconfig", "/nonexistent/kubeconfig", "status"}, 1, "kubeconfig"},
	} {
		t.Run(strings.Join(test.args, " "), func(t *testing.T) {
			code, stdout, stderr := run(t, test.args...)
			if code != test.code || !strings.Contains(stderr, test.want) {
				t.Errorf("exit code %d, stderr %q; want %d with %q", code, stderr, test.code, test.want)
			}
			if stdout != "" || strings.Count(stderr, "\n") != 1 {
				t.Errorf("want one line on stderr and nothing on stdout, got %q and %q", stderr, stdout)
			}
		})
	}
}

func TestRedirect(t *testing.T) {
	server := httptest.NewTLSServer(admin.NewHandler(wellMesh(), admin.AsRoot))
	defer server.Close()
	for host, want := range map[string]string{
		"192.0.2.9":      "https://192.0.2.9:7443",
		"192.0.2.9:1":    "https://192.0.2.9:1",
		"2001:db8::1":    "https://[2001:db8::1]:7443",
		"example.org:99": "https://example.org:99",
		"host2":          "https://192.0.2.2:7443",
	} {
		conn := tlsConnection(server)
		if err := conn.redirect(t.Context(), host); err != nil || conn.rest.Host != want {
			t.Errorf("redirect to %s: %s, %v; want %s", host, conn.rest.Host, err, want)
		}
	}
	if err := tlsConnection(server).redirect(t.Context(), "host9"); err == nil || !strings.Contains(err.Error(), `no host "host9"`) {
		t.Errorf("redirect to an unknown host: %v", err)
	}
}
