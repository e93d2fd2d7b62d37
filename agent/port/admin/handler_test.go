package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"virtmesh/agent/fault"

	"virtmesh/agent/port/admin"
)

// fakeMesh remembers what it was asked to do.
type fakeMesh struct {
	calls []string
	ttl   time.Duration
}

var _ admin.Mesh = (*fakeMesh)(nil)

func (m *fakeMesh) note(format string, args ...any) {
	m.calls = append(m.calls, fmt.Sprintf(format, args...))
}

func (m *fakeMesh) Status(context.Context) (*admin.Status, error) {
	m.note("status")
	return &admin.Status{Host: "host1", Members: []admin.Member{{Name: "host1", Lag: -1}}}, nil
}

func (m *fakeMesh) CreateToken(_ context.Context, ttl time.Duration) (*admin.Token, error) {
	m.note("create token")
	m.ttl = ttl
	return &admin.Token{ID: "abc", Secret: "vm1.abc"}, nil
}

func (m *fakeMesh) ListTokens(context.Context) ([]admin.Token, error) {
	m.note("list tokens")
	return []admin.Token{{ID: "abc"}}, nil
}

func (m *fakeMesh) RevokeToken(_ context.Context, id string) error {
	m.note("revoke %s", id)
	if id == "abc" {
		return nil
	}
	return fmt.Errorf("token %s: %w", id, fault.NotFound)
}

func (m *fakeMesh) IssueCredentials(_ context.Context, r admin.CredentialsRequest, from string) (*admin.Credentials, error) {
	m.note("credentials %s for %q by %q", r.CSR, r.User, from)
	return &admin.Credentials{Server: "https://192.0.2.1:7443"}, nil
}

func (m *fakeMesh) ListCertificates(context.Context) (*admin.Certificates, error) {
	m.note("list certificates")
	return &admin.Certificates{Certificates: []admin.Certificate{{KeyHash: "0a", User: "alice"}}, UnlistedAccepted: true}, nil
}

func (m *fakeMesh) RevokeCertificates(_ context.Context, which, by string) ([]admin.Certificate, error) {
	m.note("revoke certificates of %s for %s", which, by)
	return []admin.Certificate{{KeyHash: "0a", User: which}}, nil
}

func (m *fakeMesh) RefuseUnlistedCertificates(_ context.Context, by string) error {
	m.note("refuse unlisted for %s", by)
	return nil
}

func (m *fakeMesh) AddUser(_ context.Context, r admin.UserRequest, by string) (*admin.UserChange, error) {
	m.note("add user %s to %v for %s, replace %v", r.Name, r.Groups, by, r.ReplaceGroups)
	return &admin.UserChange{User: admin.User{Name: r.Name, Groups: r.Groups}, Created: true}, nil
}

func (m *fakeMesh) ListUsers(context.Context) ([]admin.User, error) {
	m.note("list users")
	return []admin.User{{Name: "alice"}}, nil
}

func (m *fakeMesh) RemoveUser(_ context.Context, name, by string) ([]admin.Certificate, error) {
	m.note("remove user %s for %s", name, by)
	return []admin.Certificate{{KeyHash: "0a", User: name, OfUser: true}}, nil
}

func (m *fakeMesh) Leave(context.Context) error {
	m.note("leave")
	return errors.New("leave the replicated store: no leader")
}

func (m *fakeMesh) RemoveHost(_ context.Context, r admin.Removal) (*admin.Removed, error) {
	m.note("remove %s for %s, force %v, keep %v", r.Host, r.By, r.Force, r.KeepKeys)
	if r.Host == "host3" {
		return &admin.Removed{KeysReplaced: true, Secrets: []string{"default/password"}}, nil
	}
	return nil, fmt.Errorf("%w: %s is alive", fault.Invalid, r.Host)
}

func (m *fakeMesh) GossipKeys(context.Context) (*admin.GossipKeys, error) {
	m.note("gossip keys")
	return &admin.GossipKeys{Generation: 3, Accepted: 1, Have: []string{"host1"}}, nil
}

func (m *fakeMesh) RotateGossipKey(_ context.Context, by string) error {
	m.note("rotate gossip key for %s", by)
	return nil
}

func (m *fakeMesh) SecretKeys(context.Context) (*admin.SecretKeys, error) {
	m.note("secret keys")
	return &admin.SecretKeys{Active: "ab", Older: 3}, nil
}

func (m *fakeMesh) RotateSecretKey(context.Context) error {
	m.note("rotate the key for Secrets")
	return nil
}

func (m *fakeMesh) CA(context.Context) (*admin.CAStatus, error) {
	m.note("the CA")
	return &admin.CAStatus{Stage: "Replaced", Have: []string{"host1"}}, nil
}

func (m *fakeMesh) RotateCA(_ context.Context, by string, deadline time.Duration) error {
	m.note("replace the CA for %s, deadline %s", by, deadline)
	return nil
}

func (m *fakeMesh) RaiseLevel(_ context.Context, to uint32) error {
	m.note("raise to %d", to)
	if to > 2 {
		return fault.New(fault.Conflict, "host2 knows up to 2")
	}
	return nil
}

// handlerTest is a request, and what becomes of it if root makes it.
type handlerTest struct {
	name, request, body string
	status              int
	// answer is a part of the body that comes back, call what the mesh was asked, if anything.
	answer, call string
}

// handlerTests have a request to each path of the API.
func handlerTests() []handlerTest {
	return []handlerTest{
		{"status", "GET /mesh/v1/status", "", 200, `"host":"host1"`, "status"},
		{"a lag of -1 is told", "GET /mesh/v1/status", "", 200, `"lag":-1`, "status"},
		{"create a token", "POST /mesh/v1/tokens", `{"ttl":3600000000000}`, 200, `"token":"vm1.abc"`, "create token"},
		{"the longest ttl", "POST /mesh/v1/tokens", `{"ttl":2592000000000000}`, 200, `"id":"abc"`, "create token"},
		{"a longer ttl", "POST /mesh/v1/tokens", `{"ttl":2592000000000001}`, 400, "ttl must be", ""},
		{"no ttl", "POST /mesh/v1/tokens", `{}`, 400, "ttl must be", ""},
		{"a negative ttl", "POST /mesh/v1/tokens", `{"ttl":-1}`, 400, "ttl must be", ""},
		{"an unknown field", "POST /mesh/v1/tokens", `{"ttl":1,"hosts":3}`, 400, `unknown field \"hosts\"`, ""},
		{"bad JSON", "POST /mesh/v1/tokens", `{"ttl":`, 400, "invalid request", ""},
		{"a wrong type", "POST /mesh/v1/tokens", `{"ttl":"1h"}`, 400, "invalid request", ""},
		{"an empty body", "POST /mesh/v1/tokens", "", 400, "the body is empty", ""},
		{"two objects", "POST /mesh/v1/tokens", `{"ttl":1}{"ttl":2}`, 400, "follows the JSON object", ""},
		{"a huge body", "POST /mesh/v1/credentials", `{"csr":"` + strings.Repeat("x", 1<<17) + `"}`, 400, "too large", ""},
		{"list tokens", "GET /mesh/v1/tokens", "", 200, `"id":"abc"`, "list tokens"},
		{"revoke", "DELETE /mesh/v1/tokens/abc", "", 204, "", "revoke abc"},
		{"revoke what is not there", "DELETE /mesh/v1/tokens/nope", "", 404, "token nope: not found", "revoke nope"},
		{"credentials", "POST /mesh/v1/credentials", `{"csr":"pem"}`, 200, `"server":"https://192.0.2.1:7443"`, `credentials pem for "" by ""`},
		{"credentials of a person", "POST /mesh/v1/credentials", `{"csr":"pem","user":"alice","ttl":60000000000}`, 200, `"server":`, `credentials pem for "alice" by ""`},
		{"certificates", "GET /mesh/v1/certificates", "", 200, `"unlistedAccepted":true`, "list certificates"},
		{"revoke certificates", "POST /mesh/v1/certificates/revocations", `{"certificate":"alice"}`, 200, `[{"keyHash":"0a","user":"alice"`, "revoke certificates of alice for root"},
		{"revoke unlisted certificates", "POST /mesh/v1/certificates/revocations", `{"unlisted":true}`, 200, `[]`, "refuse unlisted for root"},
		{"revoke nothing", "POST /mesh/v1/certificates/revocations", `{}`, 400, "certificate", ""},
		{"revoke two things", "POST /mesh/v1/certificates/revocations", `{"certificate":"alice","unlisted":true}`, 400, "certificate", ""},
		{"users", "GET /mesh/v1/users", "", 200, `[{"name":"alice"`, "list users"},
		{"a user", "POST /mesh/v1/users", `{"name":"alice","groups":["dev"],"replaceGroups":true}`, 200, `"created":true`, "add user alice to [dev] for root, replace true"},
		{"no user any more", "DELETE /mesh/v1/users/alice@example.org", "", 200, `"ofUser":true`, "remove user alice@example.org for root"},
		{"a failure", "POST /mesh/v1/leave", "", 500, "no leader", "leave"},
		{"a refusal", "DELETE /mesh/v1/hosts/host2", "", 400, "host2 is alive", "remove host2 for root, force false, keep false"},
		{"by force", "DELETE /mesh/v1/hosts/host2?force=true", "", 400, "host2 is alive", "remove host2 for root, force true, keep false"},
		{"what is left to do", "DELETE /mesh/v1/hosts/host3?keepKeys=true", "", 200, `"secrets":["default/password"]`, "remove host3 for root, force false, keep true"},
		{"keys by what is no answer", "DELETE /mesh/v1/hosts/host3?keepKeys=maybe", "", 400, "keepKeys", ""},
		{"by what is no answer", "DELETE /mesh/v1/hosts/host2?force=maybe", "", 400, "force", ""},
		{"a raise", "POST /mesh/v1/level", `{"to":2}`, 204, "", "raise to 2"},
		{"a raise that a host holds up", "POST /mesh/v1/level", `{"to":3}`, 409, "host2 knows up to 2", "raise to 3"},
		{"a raise to nothing", "POST /mesh/v1/level", `{}`, 400, "to must be a feature level", ""},
		{"a raise to less", "POST /mesh/v1/level", `{"to":-1}`, 400, "invalid request", ""},
		{"the gossip keys", "GET /mesh/v1/gossip", "", 200, `"generation":3`, "gossip keys"},
		{"another gossip key", "POST /mesh/v1/gossip/rotation", "", 204, "", "rotate gossip key for root"},
		{"how Secrets are stored", "GET /mesh/v1/secrets", "", 200, `"older":3`, "secret keys"},
		{"another key for Secrets", "POST /mesh/v1/secrets/rotation", "", 204, "", "rotate the key for Secrets"},
		{"the CA", "GET /mesh/v1/ca", "", 200, `"stage":"Replaced"`, "the CA"},
		{"another CA", "POST /mesh/v1/ca/rotation", `{}`, 204, "", "replace the CA for root, deadline 168h0m0s"},
		{"another CA, soon", "POST /mesh/v1/ca/rotation", `{"deadline":3600000000000}`, 204, "", "replace the CA for root, deadline 1h0m0s"},
		{"a deadline that is none", "POST /mesh/v1/ca/rotation", `{"deadline":-1}`, 400, "deadline must be from 1m0s to 720h0m0s", ""},
		{"a deadline too far", "POST /mesh/v1/ca/rotation", `{"deadline":2592000000000001}`, 400, "deadline must be", ""},
		{"an unknown path", "GET /mesh/v1/nothing", "", 404, "GET /mesh/v1/nothing: not found", ""},
		{"an unknown method", "PUT /mesh/v1/status", "", 404, "PUT /mesh/v1/status: not found", ""},
	}
}

func TestHandler(t *testing.T) {
	for _, test := range handlerTests() {
		t.Run(test.name, func(t *testing.T) {
			mesh := &fakeMesh{}
			response := ask(t, admin.NewHandler(mesh, admin.AsRoot), test.request, test.body)
			body, _ := io.ReadAll(response.Body)
			if response.StatusCode != test.status || !strings.Contains(string(body), test.answer) {
				t.Errorf("got %d %q, want %d with %q", response.StatusCode, body, test.status, test.answer)
			}
			if got := strings.Join(mesh.calls, ";"); got != test.call {
				t.Errorf("the mesh was asked %q, want %q", got, test.call)
			}
			var failure metav1.Status
			if test.status >= 300 && (json.Unmarshal(body, &failure) != nil || failure.Message == "") {
				t.Errorf("a failure answers %q, want a message in JSON", body)
			}
		})
	}
}

// A field that this version does not know is skipped if a newer program sends it: a later
// version of the protocol may add what an earlier one can do without.
func TestFieldsOfNewerProgramsAreSkipped(t *testing.T) {
	for protocol, want := range map[string]int{"": 400, "1-1": 400, "1-2": 200} {
		mesh := &fakeMesh{}
		request := httptest.NewRequest("POST", "/mesh/v1/tokens", strings.NewReader(`{"ttl":3600000000000,"hosts":3}`))
		if protocol != "" {
			request.Header.Set("Virtmesh-Speaker", "version=9&protocol="+protocol)
		}
		answer := httptest.NewRecorder()
		admin.NewHandler(mesh, admin.AsRoot).ServeHTTP(answer, request)
		if answer.Code != want || (want == 200) != (mesh.ttl == time.Hour) {
			t.Errorf("protocol %q: status %d %s, ttl %s", protocol, answer.Code, answer.Body, mesh.ttl)
		}
	}
}

func TestForbiddenReachesNothing(t *testing.T) {
	mesh := &fakeMesh{}
	handler := admin.NewHandler(mesh, func(*http.Request) (string, bool) { return "someone", false })
	for _, request := range []string{"GET /mesh/v1/status", "POST /mesh/v1/leave", "DELETE /mesh/v1/hosts/host1", "GET /mesh/v1/nothing"} {
		response := ask(t, handler, request, "")
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("%s: got %s, want 403", request, response.Status)
		}
	}
	if len(mesh.calls) > 0 {
		t.Errorf("the mesh was asked %q", mesh.calls)
	}
}

func TestTTLArrives(t *testing.T) {
	mesh := &fakeMesh{}
	body, err := json.Marshal(admin.TokenRequest{TTL: 90 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	ask(t, admin.NewHandler(mesh, admin.AsRoot), "POST /mesh/v1/tokens", string(body))
	if mesh.ttl != 90*time.Minute {
		t.Errorf("the mesh got %s, want 1h30m", mesh.ttl)
	}
}

// ask sends one request, such as "GET /path".
func ask(t *testing.T, handler http.Handler, request, body string) *http.Response {
	t.Helper()
	method, path, _ := strings.Cut(request, " ")
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader(body)))
	return recorder.Result()
}

// leaderless is a mesh whose acts wait until their time is over.
type leaderless struct{ fakeMesh }

func wait(ctx context.Context) error {
	<-ctx.Done()
	return fault.New(fault.Unavailable, "the mesh has no leader")
}

func (*leaderless) CreateToken(ctx context.Context, _ time.Duration) (*admin.Token, error) {
	return nil, wait(ctx)
}

func (*leaderless) ListTokens(ctx context.Context) ([]admin.Token, error) { return nil, wait(ctx) }

func (*leaderless) RevokeToken(ctx context.Context, _ string) error { return wait(ctx) }

func (*leaderless) IssueCredentials(ctx context.Context, _ admin.CredentialsRequest, _ string) (*admin.Credentials, error) {
	return nil, wait(ctx)
}

func TestRequestsEndWithoutALeader(t *testing.T) {
	for _, tc := range []struct{ method, path, body string }{
		{"POST", "/mesh/v1/tokens", `{"ttl":1000}`}, {"GET", "/mesh/v1/tokens", ""}, {"DELETE", "/mesh/v1/tokens/abc", ""},
		{"POST", "/mesh/v1/credentials", `{"csr":"x"}`},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			answer := httptest.NewRecorder()
			request := httptest.NewRequestWithContext(t.Context(), tc.method, tc.path, strings.NewReader(tc.body))
			admin.NewHandler(&leaderless{}, admin.AsRoot).ServeHTTP(answer, request)
			if took := time.Since(began); answer.Code != http.StatusServiceUnavailable || took != admin.Patience {
				t.Errorf("%s %s: status %d after %s", tc.method, tc.path, answer.Code, took)
			}
		})
	}
}
