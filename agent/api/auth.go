package api

import (
	"context"
	"crypto/x509"
	"slices"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authgroup "k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"virtmesh/agent/api/subresources"
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
// or, as browsers do, among the protocols of a WebSocket; tokens may be nil. Without either
// only the open paths answer. A client with an invalid certificate or token is refused and
// not treated as one without.
func newAuthenticator(cas func() *x509.CertPool, tokens authenticator.Token) authenticator.Request {
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
	clients := []authenticator.Request{x509request.NewDynamic(verify, x509request.CommonNameUserConversion)}
	if tokens != nil {
		clients = append(clients, bearertoken.New(tokens), websocket.NewProtocolAuthenticator(tokens))
	}
	known := authgroup.NewAuthenticatedGroupAdder(union.NewFailOnError(clients...))
	return union.NewFailOnError(known, anonymous.NewAuthenticator(open))
}

// groupAuthorizer allows members of its groups to do everything, and everyone to read
// the open paths.
type groupAuthorizer struct{ groups []string }

// newAuthorizer allows administrators to do everything and then asks next. If next is
// nil, hosts may do everything too.
func newAuthorizer(next authorizer.Authorizer) authorizer.Authorizer {
	if next == nil {
		return authorizer.AuthorizerFunc(groupAuthorizer{[]string{user.SystemPrivilegedGroup, user.NodesGroup}}.authorize)
	}
	first := groupAuthorizer{[]string{user.SystemPrivilegedGroup}}
	return authorizer.AuthorizerFunc(func(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		if d, reason, err := first.authorize(ctx, a); d == authorizer.DecisionAllow {
			return d, reason, err
		}
		return next.Authorize(ctx, a)
	})
}

func (g groupAuthorizer) authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.IsReadOnly() && slices.Contains(openPaths, a.GetPath()) {
		return authorizer.DecisionAllow, "", nil
	}
	for _, name := range a.GetUser().GetGroups() {
		if slices.Contains(g.groups, name) {
			return authorizer.DecisionAllow, "", nil
		}
	}
	return authorizer.DecisionNoOpinion, "no rule lets the client do this", nil
}
