package admin

import (
	"context"
	"net/http"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// People implements what concerns the certificates of people.
type People interface {
	// IssueCredentials signs an administrator's certificate. from is the hash of the key of
	// the certificate that asks, empty if root on this host asks.
	IssueCredentials(ctx context.Context, request CredentialsRequest, from string) (*Credentials, error)
	ListCertificates(ctx context.Context) (*Certificates, error)
	// RevokeCertificates ends the certificates of a user, or the one whose key has the hash,
	// in the name of by, and returns those that it ended.
	RevokeCertificates(ctx context.Context, which, by string) ([]Certificate, error)
	// RefuseUnlistedCertificates ends all certificates of people that are not listed.
	RefuseUnlistedCertificates(ctx context.Context, by string) error
}

// handleCertificates serves what concerns the certificates of people.
func handleCertificates(mux *http.ServeMux, mesh Mesh, authenticate func(*http.Request) (user string, allowed bool)) {
	mux.HandleFunc("POST /mesh/v1/credentials", replySoon(func(r *http.Request) (any, error) {
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
