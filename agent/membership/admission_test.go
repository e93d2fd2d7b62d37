package membership

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/level"
	"virtmesh/agent/port"
)

// TestCertificatesAreJudgedPerRequest: a certificate ends, or its host is removed, while
// its connection is kept alive.
func TestCertificatesAreJudgedPerRequest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		var a Admission
		a.open(m.Store, &groupOf{level: level.Apart - 1}, nil, nil)
		handler := port.JudgeClients(a.Judge, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, allowed := port.FromAdministrator(r); !allowed {
				w.WriteHeader(http.StatusForbidden)
			}
		}))
		ask := func(cert *x509.Certificate) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/mesh/v1/tokens", nil)
			r.TLS = &tls.ConnectionState{}
			if cert != nil {
				r.TLS.PeerCertificates = []*x509.Certificate{cert}
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			return w
		}
		clients := identity.NewClients(m.Store)
		admin, revoked, forged := listedAdmin(t, m), listedAdmin(t, m), m.Admin(t, time.Hour).Leaf
		if _, err := clients.Revoke(t.Context(), identity.KeyHash(identity.PinOf(revoked)), "root"); err != nil {
			t.Fatal(err)
		}
		host, leaf := m.First.Leaf(), m.Host(t, "host2", 0).Leaf()
		for what, c := range map[string]struct {
			cert *x509.Certificate
			want int
		}{"administrator": {admin, 200}, "revoked": {revoked, 401}, "of a key that the mesh does not know": {forged, 401}, "host": {host, 403}, "nobody": {nil, 403}} {
			if w := ask(c.cert); w.Code != c.want {
				t.Errorf("%s: status %d, want %d", what, w.Code, c.want)
			}
		}
		time.Sleep(time.Hour + time.Second)
		if w := ask(admin); w.Code != 401 || w.Header().Get("Connection") != "close" || !strings.Contains(w.Body.String(), "ended at") {
			t.Errorf("after its end an administrator's certificate gets status %d, %s", w.Code, w.Body)
		}
		if err := identity.NewHosts(m.Store).Expel(t.Context(), "host1"); err != nil {
			t.Fatal(err)
		}
		if w := ask(host); w.Code != 401 || !strings.Contains(w.Body.String(), "removed from the mesh") {
			t.Errorf("a removed host gets status %d, %s", w.Code, w.Body)
		}
		if w := ask(leaf); w.Code != 403 {
			t.Errorf("another host gets status %d", w.Code)
		}
	})
}

// listedAdmin returns an administrator's certificate for an hour that is in the mesh's list.
func listedAdmin(t *testing.T, m *identitytest.Mesh) *x509.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, _, _, err := identity.NewSigner(m.Store, 0).IssueClient(t.Context(), identity.ClientRequest{Key: &key.PublicKey, TTL: time.Hour, Host: "host1"})
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}
