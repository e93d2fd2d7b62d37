package tokens

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"virtmesh/agent/bearer"
	"virtmesh/agent/objects/objectstest"
)

func tokenUntil(end time.Time) bearer.Token {
	return bearer.Token{Claims: bearer.Claims{
		Claims:  jwt.Claims{Expiry: jwt.NewNumericDate(end)},
		Account: bearer.Account{Namespace: "ns", ServiceAccount: bearer.Ref{Name: "ci", UID: "u1"}, Secret: &bearer.Ref{Name: "s", UID: "u2"}},
	}}
}

// A watch lasts as long as the token that it was opened with, and no longer. Nothing of it is kept
// once it has ended.
func TestRequestsEndWithTheTimeOfTheirToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSessions(objectstest.New(), func(context.Context, bearer.Token) bool { return true })
		token := tokenUntil(time.Now().Add(10 * time.Minute))
		ctx, end := s.Begin(t.Context())
		s.bind(ctx, token)
		other, endOther := s.Begin(t.Context())
		s.bind(other, tokenUntil(time.Now().Add(time.Hour)))
		time.Sleep(time.Until(token.Ends()) - time.Second)
		if ctx.Err() != nil {
			t.Error("the request has ended before its token")
		}
		time.Sleep(2 * time.Second)
		if ctx.Err() == nil || other.Err() != nil {
			t.Errorf("after the end of the first token: %v, %v; want the first request alone to have ended", ctx.Err(), other.Err())
		}
		end()
		endOther()
		if len(s.byKey) > 0 {
			t.Errorf("%d records are still looked after", len(s.byKey))
		}
	})
}

// A request without a token, such as one with a certificate, is nobody's to end.
func TestRequestsWithoutTokenGoOn(t *testing.T) {
	s := newSessions(objectstest.New(), func(context.Context, bearer.Token) bool { return false })
	ctx, end := s.Begin(t.Context())
	defer end()
	s.bind(t.Context(), tokenUntil(time.Now().Add(time.Hour))) // a review of a token: no request of Sessions
	s.judge(t.Context(), s.all())
	if ctx.Err() != nil || len(s.byKey) > 0 {
		t.Errorf("%v, %d records", ctx.Err(), len(s.byKey))
	}
}
