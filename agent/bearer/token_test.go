package bearer_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"virtmesh/agent/bearer"
	"virtmesh/agent/sealed"
)

const issuer = "https://4a1f.virtmesh.internal"

var now = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)

// request asks for a token of an hour.
func request() bearer.Request {
	return bearer.Request{
		Account: bearer.Account{
			Namespace: "ns", ServiceAccount: bearer.Ref{Name: "ci", UID: "u1"}, Secret: &bearer.Ref{Name: "s", UID: "u2"},
		},
		Audiences: []string{issuer}, Lifetime: time.Hour,
	}
}

func newKey(t testing.TB) bearer.Key {
	t.Helper()
	secret, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bearer.DeriveKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, key bearer.Key, issuer string) string {
	t.Helper()
	signed, err := key.Sign(issuer, request(), now)
	if err != nil {
		t.Fatal(err)
	}
	return signed.Token
}

// record has the public halves of some keys.
func record(keys ...bearer.Key) (r bearer.KeysRecord) {
	for _, key := range keys {
		r.Keys = append(r.Keys, key.Public())
	}
	return r
}

// Every voter makes the same key of a key for Secrets, and another one of another.
func TestKeyFollowsFromTheKeyForSecrets(t *testing.T) {
	secret, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	first, err := bearer.DeriveKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	again, err := bearer.DeriveKey(secret)
	if err != nil || first.Public().ID != again.Public().ID || !bytes.Equal(first.Public().Public, again.Public().Public) {
		t.Errorf("the same key for Secrets gave %v and %v, %v", first.Public(), again.Public(), err)
	}
	if first.Public().SecretKey != secret.ID() {
		t.Errorf("made from %q, want %q", first.Public().SecretKey, secret.ID())
	}
	if other := newKey(t); other.Public().ID == first.Public().ID {
		t.Error("two keys for Secrets gave the same key")
	}
}

// A token says what was asked for, in the claims that Kubernetes has.
func TestTokenSaysWhatWasAskedFor(t *testing.T) {
	key, older := newKey(t), newKey(t)
	text := sign(t, key, issuer)
	token, err := bearer.Verify(text, issuer, record(older, key), now)
	if err != nil {
		t.Fatal(err)
	}
	if token.Subject != "system:serviceaccount:ns:ci" || token.Account.ServiceAccount.UID != "u1" || token.Account.Secret.UID != "u2" ||
		!token.Expiry.Time().Equal(now.Add(time.Hour)) || token.ID == "" || token.KeyID != key.Public().ID {
		t.Errorf("%+v", token)
	}
	payload, err := base64.RawURLEncoding.DecodeString(strings.Split(text, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var claims struct {
		Kubernetes struct {
			Namespace      string
			ServiceAccount struct{ Name, UID string }
			Secret         struct{ Name, UID string }
		} `json:"kubernetes.io"`
	}
	if err := json.Unmarshal(payload, &claims); err != nil || claims.Kubernetes.ServiceAccount.Name != "ci" || claims.Kubernetes.Secret.Name != "s" || claims.Kubernetes.Namespace != "ns" {
		t.Errorf("%s, %v", payload, err)
	}
}

// Nobody who lacks a key of the mesh makes a token that a host accepts, and nobody makes one that
// he has valid for longer.
func TestForgedTokensAreRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	good := sign(t, key, issuer)
	parts := strings.Split(good, ".")
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	header := `","kid":"` + key.Public().ID + `"}`
	hmac, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: jose.JSONWebKey{Key: key.Public().Public, KeyID: key.Public().ID}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	withPublicKey, err := jwt.Signed(hmac).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	foreign := strings.Split(sign(t, other, issuer), ".")
	for name, c := range map[string]struct {
		token string
		keys  bearer.KeysRecord
		after time.Duration
	}{
		"of another key":                    {sign(t, other, issuer), record(key), 0},
		"of another key, under this name":   {parts[0] + "." + foreign[1] + "." + foreign[2], record(key), 0},
		"of a key that was replaced":        {good, record(other), 0},
		"without keys":                      {good, record(), 0},
		"not signed":                        {encode(`{"alg":"none`+header) + "." + parts[1] + ".", record(key), 0},
		"signed with the public key":        {withPublicKey, record(key), 0},
		"of another account":                {parts[0] + "." + encode(strings.ReplaceAll(string(payload), `"ci"`, `"root"`)) + "." + parts[2], record(key), 0},
		"of another mesh with the same key": {sign(t, key, "https://other.virtmesh.internal"), record(key), 0},
		"expired":                           {good, record(key), time.Hour + 61*time.Second},
		"not yet valid":                     {good, record(key), -61 * time.Second},
		"cut off":                           {good[:len(good)-2], record(key), 0},
		"too long":                          {good + strings.Repeat("A", 8<<10), record(key), 0},
		"empty":                             {"", record(key), 0},
	} {
		if token, err := bearer.Verify(c.token, issuer, c.keys, now.Add(c.after)); err == nil {
			t.Errorf("%s: it is accepted as %+v", name, token.Claims)
		}
	}
	for _, after := range []time.Duration{-59 * time.Second, 0, time.Hour + 59*time.Second} {
		if _, err := bearer.Verify(good, issuer, record(key), now.Add(after)); err != nil {
			t.Errorf("after %s: %v", after, err)
		}
	}
}

// A key whose name does not follow from it judges nothing: a name must stand for one key.
func TestKeyUnderAnotherNameIsRefused(t *testing.T) {
	key, other := newKey(t), newKey(t)
	keys := record(key)
	keys.Keys[0].Public = other.Public().Public
	if _, err := bearer.Verify(sign(t, key, issuer), issuer, keys, now); err == nil || errors.Is(err, bearer.ErrForeign) {
		t.Errorf("error %v, want one about the key", err)
	}
}

// What no account can ask for is not signed.
func TestRequestsAreChecked(t *testing.T) {
	key := newKey(t)
	for name, spoil := range map[string]func(*bearer.Request){
		"no namespace":    func(r *bearer.Request) { r.Account.Namespace = "" },
		"no UID":          func(r *bearer.Request) { r.Account.ServiceAccount.UID = "" },
		"no audience":     func(r *bearer.Request) { r.Audiences = nil },
		"too short":       func(r *bearer.Request) { r.Lifetime = 9 * time.Minute },
		"too long":        func(r *bearer.Request) { r.Lifetime = 25 * time.Hour },
		"a Secret's name": func(r *bearer.Request) { r.Account.Secret.UID = "" },
		"many audiences":  func(r *bearer.Request) { r.Audiences = []string{strings.Repeat("a", 8<<10)} },
	} {
		r := request()
		spoil(&r)
		if signed, err := key.Sign(issuer, r, now); err == nil {
			t.Errorf("%s: signed %v", name, signed)
		}
	}
}

// Whatever text is sent as a token, it is judged without a panic, and accepted only if it is
// one that the key has signed.
func FuzzVerify(f *testing.F) {
	key := newKey(f)
	good := sign(f, key, issuer)
	f.Add(good)
	f.Add("a.b.c")
	f.Add(`{"payload":"e30","protected":"e30","signature":""}`)
	f.Fuzz(func(t *testing.T, text string) {
		token, err := bearer.Verify(text, issuer, record(key), now)
		if err == nil && (token.Subject != "system:serviceaccount:ns:ci" || token.KeyID != key.Public().ID) {
			t.Errorf("accepted %q", text)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	key := newKey(b)
	good, keys := sign(b, key, issuer), record(key)
	for b.Loop() {
		if _, err := bearer.Verify(good, issuer, keys, now); err != nil {
			b.Fatal(err)
		}
	}
}

// Whoever gets hold of a key that signs makes no tokens for years with it.
func TestNoTokenLastsForLong(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := bearer.NewPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: private, KeyID: public.ID}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for lifetime, accepted := range map[time.Duration]bool{bearer.MaxLifetime: true, 365 * 24 * time.Hour: false} {
		account := request().Account
		token, err := jwt.Signed(signer).Claims(jwt.Claims{
			Issuer: issuer, Subject: account.User(), Audience: jwt.Audience{issuer},
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(lifetime)),
		}).Claims(map[string]any{"kubernetes.io": account}).Serialize()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bearer.Verify(token, issuer, bearer.KeysRecord{Keys: []bearer.PublicKey{public}}, now); (err == nil) != accepted {
			t.Errorf("for %s: %v", lifetime, err)
		}
	}
}
