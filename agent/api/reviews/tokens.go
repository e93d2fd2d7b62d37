package reviews

import (
	"context"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// tokenJudge answers whose a token is.
type tokenJudge struct{ clients authenticator.Request }

// reviewToken asks what a request with the token, and without anything else, would be taken for.
// Without audiences in the review, the token must be for the API.
func (j tokenJudge) reviewToken(ctx context.Context, r *authenticationv1.TokenReview) error {
	if r.Spec.Token == "" {
		return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenReview").GroupKind(), "",
			field.ErrorList{field.Required(field.NewPath("spec", "token"), "")})
	}
	if len(r.Spec.Audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, r.Spec.Audiences)
	}
	shown, err := http.NewRequestWithContext(ctx, http.MethodGet, "/api", nil)
	if err != nil {
		return err
	}
	shown.Header.Set("Authorization", "Bearer "+r.Spec.Token)
	response, ok, err := j.clients.AuthenticateRequest(shown)
	r.Status = authenticationv1.TokenReviewStatus{Authenticated: ok && err == nil}
	switch {
	case err != nil:
		r.Status.Error = err.Error()
	case ok:
		r.Status.User, r.Status.Audiences = infoOf(response.User), response.Audiences
	}
	return nil
}
