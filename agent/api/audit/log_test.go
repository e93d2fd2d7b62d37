package audit

import (
	"bufio"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// events reads a log.
func events(t *testing.T, file string) (all []auditv1.Event) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditv1.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		all = append(all, e)
	}
	return all
}

// What is done through the administration API is on record with its user and outcome, also what
// is refused, and a stranger leaves nothing. The file is root's alone, and goes on after a start.
func TestAdministrationIsRecorded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "audit", "audit.log")
	who := func(r *http.Request) (string, bool) {
		name := r.Header.Get("X-Test-User")
		return name, name != ""
	}
	api := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Test-User") != "anna" {
			w.WriteHeader(http.StatusForbidden)
		}
		_, _ = w.Write([]byte("a secret"))
	})
	send := func(log *Log, user, method, path string) {
		t.Helper()
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader("a secret"))
		r.Header.Set("X-Test-User", user)
		log.Record(who, api).ServeHTTP(httptest.NewRecorder(), r)
	}
	for range 2 {
		log, err := Open(Config{}, dir)
		if err != nil {
			t.Fatal(err)
		}
		send(log, "anna", http.MethodPost, "/mesh/v1/tokens")
		send(log, "bert", http.MethodDelete, "/mesh/v1/hosts/host3")
		send(log, "anna", http.MethodGet, "/mesh/v1/status")
		send(log, "", http.MethodPost, "/mesh/v1/tokens")
		if err := log.Close(); err != nil {
			t.Fatal(err)
		}
	}
	all := events(t, file)
	if len(all) != 4 {
		t.Fatalf("%d events: %+v", len(all), all)
	}
	for i, want := range []struct {
		user, verb, path string
		code             int32
	}{
		{"anna", "post", "/mesh/v1/tokens", http.StatusOK}, {"bert", "delete", "/mesh/v1/hosts/host3", http.StatusForbidden},
	} {
		e := all[i]
		if e.User.Username != want.user || e.Verb != want.verb || e.RequestURI != want.path || e.ResponseStatus == nil || e.ResponseStatus.Code != want.code {
			t.Errorf("%+v, want %+v", e, want)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil || strings.Contains(string(data), "a secret") {
		t.Errorf("a body is in the log, or %v", err)
	}
	for path, want := range map[string]os.FileMode{file: 0o600, filepath.Dir(file): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}

// A setting that is wrong is an error that names it; off writes nothing.
func TestOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	policy := filepath.Join(dir, "policy.yaml")
	for name, c := range map[string]struct{ content, want string }{
		"no policy":     {"kind: Pod\napiVersion: v1\n", "audit.policy"},
		"wrong level":   {"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: All}]\n", "rules[0].level"},
		"good":          {"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Request}]\n", ""},
		"no rules":      {"apiVersion: audit.k8s.io/v1\nkind: Policy\n", "audit.policy"},
		"not YAML":      {"{", "audit.policy"},
		"an older form": {"apiVersion: audit.k8s.io/v1beta1\nkind: Policy\nrules: [{level: Request}]\n", "audit.policy"},
	} {
		if err := os.WriteFile(policy, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		log, err := Open(Config{Policy: policy}, filepath.Join(dir, "state"))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := Open(Config{File: filepath.Join(policy, "audit.log")}, dir); err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Errorf("below a file: %v", err)
	}
	if err := (Config{File: "audit.log", MaxFiles: -1}).Validate(); err == nil || !strings.Contains(err.Error(), "audit.file") || !strings.Contains(err.Error(), "audit.maxFiles") {
		t.Errorf("%v", err)
	}
	off, err := Open(Config{Off: true}, filepath.Join(dir, "off"))
	if err != nil || off.Backend() != nil || off.Rules() != nil {
		t.Errorf("%+v, %v", off, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "off")); !os.IsNotExist(err) {
		t.Errorf("off writes: %v", err)
	}
}

// A client cannot make every line of the log as long as it likes.
func TestBoundIDs(t *testing.T) {
	t.Parallel()
	var got string
	h := BoundIDs(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.Header.Get("Audit-ID") }))
	for id, want := range map[string]string{"3f1c": "3f1c", strings.Repeat("x", 1000): ""} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Header.Set("Audit-ID", id)
		h.ServeHTTP(httptest.NewRecorder(), r)
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
