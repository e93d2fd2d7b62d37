package bearer

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/uuid"
)

const (
	// DefaultLifetime is how long a token is valid if its request does not say.
	DefaultLifetime = time.Hour
	// MinLifetime is the shortest time for which a token can be valid.
	MinLifetime = 10 * time.Minute
	// MaxLifetime is the longest; a request for a longer one gets one of it.
	MaxLifetime = 24 * time.Hour
	// leeway is how much the clocks of two hosts may differ.
	leeway = time.Minute
	// maxToken bounds the length of a token, in bytes; one with a name and an audience of
	// common length has about 800.
	maxToken = 8 << 10
)

// ErrForeign is returned for what is no token of this mesh: another format, issuer or key.
var ErrForeign = errors.New("the token was not issued by this mesh")

// ErrUnreadableKey is returned for a token of a key of this mesh that cannot be read: nothing is
// known of the token then.
var ErrUnreadableKey = errors.New("the public key that judges the token cannot be read")

// algorithms are those that a token may be signed with. A token cannot choose another one, nor none.
var algorithms = []jose.SignatureAlgorithm{jose.ES256}

// Issuer returns what a mesh's tokens name as their issuer. It is a URL because readers of tokens
// expect one; the domain .internal is nobody's.
func Issuer(meshID string) string { return "https://" + meshID + ".virtmesh.internal" }

// Ref names an object, and which of those that had the name one after the other.
type Ref struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// Account is the part of the claims that is particular to Kubernetes.
type Account struct {
	Namespace      string `json:"namespace"`
	ServiceAccount Ref    `json:"serviceaccount"`
	// Secret is the Secret with which the token ends; nil if it is bound to its account only.
	Secret *Ref `json:"secret,omitempty"`
}

// User returns the name of the account as a user of the API.
func (a Account) User() string {
	return "system:serviceaccount:" + a.Namespace + ":" + a.ServiceAccount.Name
}

// Claims are what a token says.
type Claims struct {
	jwt.Claims
	Account Account `json:"kubernetes.io"`
}

// Token is a token whose signature, issuer and times were judged.
type Token struct {
	Claims
	// KeyID names the key that has signed it.
	KeyID string
}

// Ends returns when the token is accepted nowhere any more.
func (t Token) Ends() time.Time { return t.Expiry.Time().Add(leeway) }

// Request asks for a token.
type Request struct {
	Account Account `json:"account"`
	// Audiences are those for whom the token is.
	Audiences []string `json:"audiences"`
	// Lifetime is for how long the token shall be valid.
	Lifetime time.Duration `json:"lifetime"`
}

// Signed is a token that was just signed.
type Signed struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Validate returns an error for a request that no account can make.
func (r Request) Validate() error {
	switch a := r.Account; {
	case a.Namespace == "" || a.ServiceAccount.Name == "" || a.ServiceAccount.UID == "":
		return errors.New("the request for a token does not say for which account")
	case a.Secret != nil && (a.Secret.Name == "" || a.Secret.UID == ""):
		return errors.New("the request for a token does not say to which Secret it is bound")
	case len(r.Audiences) == 0:
		return errors.New("the request for a token names no audience")
	case r.Lifetime < MinLifetime || r.Lifetime > MaxLifetime:
		return fmt.Errorf("a token is valid for %s to %s, not for %s", MinLifetime, MaxLifetime, r.Lifetime)
	}
	return nil
}

// Sign signs a token that is valid from now on.
func (k Key) Sign(issuer string, r Request, now time.Time) (Signed, error) {
	if err := r.Validate(); err != nil {
		return Signed{}, err
	}
	key := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k.private, KeyID: k.public.ID}}
	signer, err := jose.NewSigner(key, new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return Signed{}, fmt.Errorf("sign the token: %w", err)
	}
	expires := now.Add(r.Lifetime).Truncate(time.Second)
	claims := jwt.Claims{
		Issuer: issuer, Subject: r.Account.User(), Audience: r.Audiences, ID: uuid.NewString(),
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(expires),
	}
	token, err := jwt.Signed(signer).Claims(claims).Claims(map[string]any{"kubernetes.io": r.Account}).Serialize()
	if err != nil {
		return Signed{}, fmt.Errorf("sign the token: %w", err)
	}
	if len(token) > maxToken {
		return Signed{}, fmt.Errorf("the token would have %d bytes, and at most %d are accepted: name fewer audiences", len(token), maxToken)
	}
	return Signed{Token: token, Expires: expires}, nil
}

// Verify judges a token: that one of some keys has signed it, that it names the issuer and that it
// is valid now. For what is no token of theirs the error is ErrForeign, and ErrUnreadableKey if the
// key cannot be read. The caller judges for whom
// it is, and whether its account and what it is bound to exist.
func Verify(text, issuer string, keys KeysRecord, now time.Time) (Token, error) {
	if len(text) > maxToken {
		return Token{}, ErrForeign
	}
	parsed, err := jwt.ParseSigned(text, algorithms)
	if err != nil || len(parsed.Headers) != 1 {
		return Token{}, ErrForeign
	}
	public, ok := keys.Find(parsed.Headers[0].KeyID)
	if !ok {
		return Token{}, ErrForeign
	}
	key, err := public.Parse()
	if err != nil {
		return Token{}, fmt.Errorf("%w: %w", ErrUnreadableKey, err)
	}
	token := Token{KeyID: public.ID}
	if err := parsed.Claims(key, &token.Claims); err != nil {
		return Token{}, ErrForeign
	}
	if token.Issuer != issuer {
		return Token{}, ErrForeign
	}
	if token.Expiry == nil || token.NotBefore == nil || token.IssuedAt == nil || len(token.Audience) == 0 ||
		token.Account.Namespace == "" || token.Account.ServiceAccount.Name == "" || token.Account.ServiceAccount.UID == "" || token.Subject != token.Account.User() {
		return Token{}, errors.New("the token lacks claims")
	}
	if token.Expiry.Time().Sub(token.IssuedAt.Time()) > MaxLifetime+leeway {
		return Token{}, fmt.Errorf("the token says that it is valid for longer than %s, which no token is", MaxLifetime)
	}
	if err := token.ValidateWithLeeway(jwt.Expected{Time: now}, leeway); err != nil {
		return Token{}, fmt.Errorf("the token cannot be used now: %w", err)
	}
	return token, nil
}
