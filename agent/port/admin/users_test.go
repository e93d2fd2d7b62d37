package admin_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/agent/port"
	"virtmesh/agent/port/admin"
)

// TestUsersReachTheirOwnCertificateAlone: people who are no administrators may ask for a
// certificate, in the name of the one that they show, and nothing else; hosts, and strangers,
// not even that.
func TestUsersReachTheirOwnCertificateAlone(t *testing.T) {
	m := identitytest.NewMesh(t)
	user := certificateFor(t, m, "alice", "dev")
	for who, cert := range map[string]*x509.Certificate{
		"a user": user, "a host": m.First.Leaf(), "a stranger": nil, "a user of no group": certificateFor(t, m, "bob"),
	} {
		for _, test := range handlerTests() {
			mesh := &fakeMesh{}
			method, path, _ := strings.Cut(test.request, " ")
			request := httptest.NewRequest(method, path, strings.NewReader(test.body))
			request.TLS = &tls.ConnectionState{}
			if cert != nil {
				request.TLS.PeerCertificates = []*x509.Certificate{cert}
			}
			answer := httptest.NewRecorder()
			admin.NewHandler(mesh, port.FromAdministrator).ServeHTTP(answer, request)
			if asks := test.request == "POST "+admin.CredentialsPath; asks && strings.Contains(who, "user") {
				if len(mesh.calls) > 0 && !strings.HasSuffix(mesh.calls[0], `by "`+identity.KeyHash(identity.PinOf(cert))+`"`) || answer.Code == http.StatusForbidden {
					t.Errorf("%s, %s: %d, asked %q", who, test.name, answer.Code, mesh.calls)
				}
				continue
			}
			if answer.Code != http.StatusForbidden || len(mesh.calls) > 0 {
				t.Errorf("%s, %s: %d, and the mesh was asked %q", who, test.name, answer.Code, mesh.calls)
			}
		}
	}
}

func certificateFor(t *testing.T, m *identitytest.Mesh, name string, groups ...string) *x509.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := m.CA.IssueClient(&key.PublicKey, name, groups, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}
