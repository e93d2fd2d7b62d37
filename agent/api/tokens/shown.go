package tokens

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"

	"virtmesh/agent/fault"
)

// FromRequests returns what finds the token that a request shows, as bearer or, as browsers do,
// among the protocols of a WebSocket, and lets judge authenticate it.
func FromRequests(judge authenticator.Token) authenticator.Request {
	return union.NewFailOnError(bearertoken.New(judge), websocket.NewProtocolAuthenticator(judge))
}

// judgeShown lets judge judge the token that a request shows, if it shows one. The request stays as
// it is.
func judgeShown(r *http.Request, judge authenticator.TokenFunc) {
	if len(r.Header["Authorization"]) == 0 && len(r.Header["Sec-Websocket-Protocol"]) == 0 {
		return
	}
	shown := r.WithContext(r.Context())
	shown.Header = r.Header.Clone() // what is accepted is taken out of it
	_, _, _ = FromRequests(judge).AuthenticateRequest(shown)
}

// Recognises returns the user whose token for the API a request shows, and reports whether it is
// valid now, as far as this host knows: it asks nobody, so that who shows anything costs the host
// little.
func (a *Authenticator) Recognises(r *http.Request) (user string, known bool) {
	judgeShown(r, func(ctx context.Context, text string) (*authenticator.Response, bool, error) {
		token, err := a.verify(ctx, text)
		if err == nil && slices.Contains(token.Audience, a.issuer) && a.find(ctx, token.Account, localRead) == nil {
			user, known = token.Account.User(), true
		}
		return nil, known, nil
	})
	return user, known
}

// undecidedError says that this host cannot tell now whether a token is good: it is no fault of who
// shows it, and a later attempt can succeed.
type undecidedError struct{ cause error }

// Error says why.
func (e *undecidedError) Error() string {
	return fmt.Sprintf("this host cannot judge the token now: %v", e.cause)
}

// Unwrap returns the cause.
func (e *undecidedError) Unwrap() error { return e.cause }

// verdict is what was found of the token of a request.
type verdict struct {
	text     string
	response *authenticator.Response
	ok       bool
	err      error
}

type verdictKey struct{}

// JudgeFirst judges the token of each request before next gets it, whose authentication then goes by
// the same verdict. If this host cannot judge it, the answer is 503 and not 401: clients take a 401
// for the end of their token. A client certificate goes before a token, which is not looked at then.
func (a *Authenticator) JudgeFirst(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
			next.ServeHTTP(w, r)
			return
		}
		var found *verdict
		judgeShown(r, func(ctx context.Context, text string) (*authenticator.Response, bool, error) {
			found = &verdict{text: text}
			found.response, found.ok, found.err = a.AuthenticateToken(ctx, text)
			return found.response, found.ok, found.err
		})
		if found == nil {
			next.ServeHTTP(w, r)
			return
		}
		var undecided *undecidedError
		if errors.As(found.err, &undecided) {
			a.tellUndecided(r, undecided)
			w.Header().Set("Retry-After", "1")
			fault.Write(w, fault.New(fault.Unavailable, "this host cannot judge the token now").WithRemedy("try again, or ask another host; the log of this one says why"))
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), verdictKey{}, found)))
	})
}

// tellUndecided writes into the log of the host that it cannot judge tokens, now and then.
func (a *Authenticator) tellUndecided(r *http.Request, why *undecidedError) {
	if r.Context().Err() != nil {
		return // the client is gone, which may be the cause
	}
	a.warn.Do(func() { a.log.Warn("a token cannot be judged, and its client is told to try again", "err", why.cause) })
}

// foundBefore returns the verdict on a token that was judged for this request already, and for the
// API.
func foundBefore(ctx context.Context, text string) (*verdict, bool) {
	found, ok := ctx.Value(verdictKey{}).(*verdict)
	if named, _ := authenticator.AudiencesFrom(ctx); !ok || found.text != text || len(named) > 0 {
		return nil, false
	}
	return found, true
}
