package api

import (
	"context"
	"crypto/x509"
	"net/http"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authgroup "k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/union"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"

	"virtmesh/agent/api/subresources"
	"virtmesh/agent/api/tokens"
)

// openPaths need no client certificate. They only report whether the server is alive
// and its version.
var openPaths = []string{
	"/healthz", "/livez", "/readyz", "/version", "/version/",
	subresourcePath("version"), subresourcePath("healthz"),
}

// subresourcePath is the path of a subresource that belongs to no object.
func subresourcePath(name string) string {
	return "/apis/" + subresources.GroupVersion.String() + "/" + name
}

// newAuthenticator authenticates a client by its certificate: the common name is the
// user, the organizations are the groups. A client without one can show a token, as bearer
// or, as browsers do, among the protocols of a WebSocket; accounts judges it, and may be nil. Without either
// only the open paths answer. A client with an invalid certificate or token is refused and
// not treated as one without.
func newAuthenticator(cas func() *x509.CertPool, accounts authenticator.Token) authenticator.Request {
	verify := func() (x509.VerifyOptions, bool) {
		pool := cas()
		return x509.VerifyOptions{
			Roots:     pool,
			KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		}, pool != nil
	}
	var open []apiserver.AnonymousAuthCondition
	for _, p := range openPaths {
		open = append(open, apiserver.AnonymousAuthCondition{Path: p})
	}
	clients := []authenticator.Request{withRoot(x509request.NewDynamic(verify, x509request.CommonNameUserConversion))}
	if accounts != nil {
		clients = append(clients, tokens.FromRequests(accounts))
	}
	known := authgroup.NewAuthenticatedGroupAdder(union.NewFailOnError(clients...))
	return union.NewFailOnError(known, anonymous.NewAuthenticator(open))
}

// rootKey is the key of the mark in the context of a request that only root on this host can send.
type rootKey struct{}

// fromRoot marks the requests that next gets as those of root on this host.
func fromRoot(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), rootKey{}, true)))
	})
}

// withRoot makes whoever sends a request that is marked an administrator, besides what next
// makes him.
func withRoot(next authenticator.Request) authenticator.Request {
	administrator := authgroup.NewGroupAdder(next, []string{user.SystemPrivilegedGroup})
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if marked, _ := r.Context().Value(rootKey{}).(bool); marked {
			return administrator.AuthenticateRequest(r)
		}
		return next.AuthenticateRequest(r)
	})
}
