package admin

import (
	"context"
	"net/http"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// CredentialsPath is where a person's certificate is asked for: with POST, also by people who are
// no administrators, for themselves.
const CredentialsPath = "/mesh/v1/credentials"

// People implements what concerns the certificates of people.
type People interface {
	// IssueCredentials signs a person's certificate. from is the hash of the key of the
	// certificate that asks, which need not be an administrator's; empty if root on this host
	// asks.
	IssueCredentials(ctx context.Context, request CredentialsRequest, from string) (*Credentials, error)
	ListCertificates(ctx context.Context) (*Certificates, error)
	// RevokeCertificates ends the certificates of a user, or the one whose key has the hash,
	// in the name of by, and returns those that it ended.
	RevokeCertificates(ctx context.Context, which, by string) ([]Certificate, error)
	// RefuseUnlistedCertificates ends all certificates of people that are not listed.
	RefuseUnlistedCertificates(ctx context.Context, by string) error
}

// handlePeople serves what concerns people: their certificates, and the users among them.
func handlePeople(mux *http.ServeMux, mesh Mesh, authenticate func(*http.Request) (user string, allowed bool)) {
	handleCertificates(mux, mesh, authenticate)
	handleUsers(mux, mesh, authenticate)
}

// handleCertificates serves what concerns the certificates of people.
func handleCertificates(mux *http.ServeMux, mesh Mesh, authenticate func(*http.Request) (user string, allowed bool)) {
	mux.HandleFunc("POST "+CredentialsPath, replySoon(func(r *http.Request) (any, error) {
		var request CredentialsRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		return mesh.IssueCredentials(r.Context(), request, keyHashOf(r))
	}))
	mux.HandleFunc("GET /mesh/v1/certificates", replySoon(func(r *http.Request) (any, error) {
		return mesh.ListCertificates(r.Context())
	}))
	mux.HandleFunc("POST /mesh/v1/certificates/revocations", replySoon(func(r *http.Request) (any, error) {
		var request RevocationRequest
		if err := decodeBody(r, &request); err != nil {
			return nil, err
		}
		user, _ := authenticate(r)
		switch {
		case request.Unlisted == (request.Certificate != ""):
			return nil, fault.InField("certificate", "either it or unlisted must be set")
		case request.Unlisted:
			return []Certificate{}, mesh.RefuseUnlistedCertificates(r.Context(), user)
		}
		return mesh.RevokeCertificates(r.Context(), request.Certificate, user)
	}))
}

// keyHashOf returns the hash of the key of the certificate that a request comes with; "" on
// the administration socket.
func keyHashOf(r *http.Request) string {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return ""
	}
	return identity.KeyHash(identity.PinOf(r.TLS.PeerCertificates[0]))
}

// renewsOwn reports whether a request is one that people make who are no administrators: for
// their own next certificate. They show the one that they have; a host is nobody's person.
func renewsOwn(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Path == CredentialsPath &&
		r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && !identity.ClaimsNode(r.TLS.PeerCertificates[0])
}
