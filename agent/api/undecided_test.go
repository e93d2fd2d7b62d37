package api_test

import (
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"virtmesh/agent/api"
	"virtmesh/agent/api/tokens"
	"virtmesh/agent/bearer"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A host that cannot read the keys that judge tokens says so: a 401 would tell programs that their
// token has ended. Certificates go on to work.
func TestTokensThatCannotBeJudged(t *testing.T) {
	t.Parallel()
	store, key := raftstoretest.New(t, raftstoretest.WithConfig(allLevels)), newKeyOfMesh(t)
	publish(t, store, key)
	h := serveTokens(t, store, newAuthority(t), key)
	admin := h.admin(t)
	makeAccount(t, admin, "ci")
	token := askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{}).Token
	for what, record := range map[string]string{
		"the record is spoilt": `{"keys":7}`,
		"the key is spoilt":    `{"keys":[{"id":"` + key.Public().ID + `","key":"AAAA","from":"2026-01-01T00:00:00Z"}]}`,
	} {
		if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.KeyTokenKeys, Value: []byte(record)}}}); err != nil {
			t.Fatal(err)
		}
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.url+"/api/v1/namespaces/default/configmaps", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		answer, err := h.anonymous().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" || !strings.Contains(string(body), "cannot judge the token now") {
			t.Errorf("%s: %s %s", what, answer.Status, body)
		}
	}
	if _, err := admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

// A token is recognised wherever the API takes one: as bearer, and among the protocols of a
// WebSocket.
func TestTokensAreRecognised(t *testing.T) {
	t.Parallel()
	store, key := raftstoretest.New(t, raftstoretest.WithConfig(allLevels)), newKeyOfMesh(t)
	publish(t, store, key)
	var server *api.Server
	h := serve(t, store, newAuthority(t), func(c *api.Config) {
		c.Tokens = tokens.Config{Signer: key, Store: objects.SealedFromRaft(store, nil)}
		var err error
		if server, err = api.New(*c); err != nil {
			t.Fatal(err)
		}
	})
	admin := h.admin(t)
	account := makeAccount(t, admin, "ci")
	good := askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{}).Token
	gone, err := key.SignToken(t.Context(), bearer.Request{
		Account: bearer.Account{Namespace: "default", ServiceAccount: bearer.Ref{Name: "ci", UID: "not " + string(account.UID)}}, Audiences: []string{key.TokenIssuer()}, Lifetime: bearer.MinLifetime,
	})
	if err != nil {
		t.Fatal(err)
	}
	bearerOf := func(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }
	protocol := func(token string) http.Header {
		return http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token)) + ", plain.kubevirt.io"}}
	}
	for what, test := range map[string]struct {
		header http.Header
		known  bool
	}{
		"bearer": {bearerOf(good), true}, "protocol": {protocol(good), true}, "nothing": {http.Header{}, false},
		"a spoilt bearer": {bearerOf(good + "x"), false}, "a spoilt protocol": {protocol(good + "x"), false},
		"of another account": {bearerOf(gone.Token), false}, "of another account, protocol": {protocol(gone.Token), false},
	} {
		request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		request.Header = test.header.Clone()
		user, known := server.RecognisesToken(request)
		if known != test.known || known && user != "system:serviceaccount:default:ci" {
			t.Errorf("%s: %q, %v", what, user, known)
		}
		for name := range test.header {
			if request.Header.Get(name) != test.header.Get(name) {
				t.Errorf("%s: the header %s has become %q", what, name, request.Header.Get(name))
			}
		}
	}
}

// A user who asks for tokens without end is told to wait. An administrator is not.
func TestRequestsForTokensHaveAPace(t *testing.T) {
	t.Parallel()
	store, key := raftstoretest.New(t, raftstoretest.WithConfig(allLevels)), newKeyOfMesh(t)
	publish(t, store, key)
	h := serveTokens(t, store, newAuthority(t), key)
	admin := h.admin(t)
	makeAccount(t, admin, "ci")
	config := &rest.Config{Host: h.url, QPS: -1, BearerToken: askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{}).Token, TLSClientConfig: rest.TLSClientConfig{CAData: h.ca.pem}}
	program := kubernetes.NewForConfigOrDie(config).CoreV1().RESTClient()
	refused := 0
	for range 200 {
		err := program.Post().Namespace("default").Resource("serviceaccounts").Name("ci").SubResource("token").
			MaxRetries(0).Body(&authenticationv1.TokenRequest{}).Do(t.Context()).Error()
		if apierrors.IsTooManyRequests(err) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 {
		t.Error("200 requests for tokens were all served")
	}
	for range 60 {
		askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{})
	}
}

// The address for metrics has metrics and health, and no way to the API.
func TestMetricsAloneAreServed(t *testing.T) {
	t.Parallel()
	var server *api.Server
	h := serve(t, raftstoretest.New(t), newAuthority(t), func(c *api.Config) {
		var err error
		if server, err = api.New(*c); err != nil {
			t.Fatal(err)
		}
	})
	for path, want := range map[string]int{
		"/metrics": 200, "/livez": 500, "/healthz": 500, "/readyz": 500, // they say that this one does not run
		"/": 404, "/api": 404, "/apis": 404, "/version": 404, "/openapi/v2": 404, "/api/v1/namespaces/default/secrets": 404, "/readyz/x": 404, "/metrics/x": 404, "/mesh/v1/status": 404, "//api": 404,
	} {
		answer := httptest.NewRecorder()
		server.MetricsHandler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, h.url+path, nil))
		if answer.Code != want && !(want == 404 && answer.Code/100 == 3) {
			t.Errorf("%s: %d, want %d: %s", path, answer.Code, want, answer.Body)
		}
		if want == 500 && !strings.Contains(answer.Body.String(), "[+]ping ok") {
			t.Errorf("%s: %s", path, answer.Body)
		}
		if path == "/metrics" && (!strings.Contains(answer.Body.String(), "virtmesh_test_metric") || !strings.Contains(answer.Body.String(), "apiserver_")) {
			t.Errorf("the metrics are\n%.500s", answer.Body)
		}
	}
	answer := httptest.NewRecorder()
	server.MetricsHandler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodPost, h.url+"/metrics", nil))
	if answer.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST /metrics: %d", answer.Code)
	}
}
