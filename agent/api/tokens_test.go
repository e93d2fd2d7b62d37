package api_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"virtmesh/agent/api"
	"virtmesh/agent/api/tokens"
	"virtmesh/agent/bearer"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// keyOfMesh signs as the voters of a mesh do.
type keyOfMesh struct{ bearer.Key }

// TokenIssuer implements tokens.Signer.
func (keyOfMesh) TokenIssuer() string { return bearer.Issuer("m1") }

// SignToken implements tokens.Signer.
func (k keyOfMesh) SignToken(_ context.Context, r bearer.Request) (bearer.Signed, error) {
	return k.Sign(k.TokenIssuer(), r, time.Now())
}

func newKeyOfMesh(t *testing.T) keyOfMesh {
	t.Helper()
	secret, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := bearer.DeriveKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return keyOfMesh{key}
}

// publish makes hosts accept the tokens of some keys, and of no others.
func publish(t *testing.T, store *raftstore.Store, keys ...keyOfMesh) {
	t.Helper()
	_, stored, err := identity.ReadTokenKeys(t.Context(), store, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var record bearer.KeysRecord
	for _, key := range keys {
		record.Keys = append(record.Keys, key.Public())
	}
	if err := identity.StoreTokenKeys(t.Context(), store, stored, record); err != nil {
		t.Fatal(err)
	}
}

// serveTokens serves the API of a host, on which service accounts may do everything.
func serveTokens(t *testing.T, store *raftstore.Store, ca *authority, key keyOfMesh) *host {
	t.Helper()
	roles := withRoles(t, store)
	h := serve(t, store, ca, func(c *api.Config) {
		c.Tokens = tokens.Config{Signer: key, Store: objects.SealedFromRaft(store, nil)}
		roles(c)
	})
	letAccountsDoAll(t, h)
	return h
}

// letAccountsDoAll gives all service accounts all rights, unless they have them.
func letAccountsDoAll(t *testing.T, h *host) {
	t.Helper()
	client := h.admin(t)
	all := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Rules: []rbacv1.PolicyRule{rule("*", "*", "*")}}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "all"}, RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "all"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "system:serviceaccounts"}}}
	for _, err := range []error{
		second(client.RbacV1().ClusterRoles().Create(t.Context(), all, metav1.CreateOptions{})),
		second(client.RbacV1().ClusterRoleBindings().Create(t.Context(), binding, metav1.CreateOptions{})),
	} {
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	question := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{Groups: []string{"system:serviceaccounts"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets"}}}
	await(t, "service accounts have all rights", func() bool {
		answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), question, metav1.CreateOptions{})
		return err == nil && answer.Status.Allowed
	})
}

// withToken returns a client that shows a token and no certificate.
func (h *host) withToken(token string) kubernetes.Interface {
	return kubernetes.NewForConfigOrDie(&rest.Config{Host: h.url, QPS: -1, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: h.ca.pem}})
}

func makeAccount(t *testing.T, client kubernetes.Interface, name string) *corev1.ServiceAccount {
	t.Helper()
	account, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return account
}

// askToken asks for a token as 'kubectl create token' does.
func askToken(t *testing.T, client kubernetes.Interface, name string, spec authenticationv1.TokenRequestSpec) authenticationv1.TokenRequestStatus {
	t.Helper()
	answer, err := client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Status
}

func allLevels(cfg *raftstore.Config) { cfg.FeatureLevel = level.Known() }

// A program uses the API with a token of its service account, until the account is deleted. One
// that is made again under the name is another account.
func TestProgramsUseTokens(t *testing.T) {
	store, key, ca := raftstoretest.New(t, raftstoretest.WithConfig(allLevels)), newKeyOfMesh(t), newAuthority(t)
	publish(t, store, key)
	h := serveTokens(t, store, ca, key)
	ctx, admin := t.Context(), h.admin(t)
	account := makeAccount(t, admin, "ci")
	status := askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{})
	if left := time.Until(status.ExpirationTimestamp.Time); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("the token is valid for %s, want an hour", left)
	}
	program := h.withToken(status.Token)
	self, err := program.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	groups := []string{"system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"}
	if u := self.Status.UserInfo; u.Username != "system:serviceaccount:default:ci" || u.UID != string(account.UID) || !slices.Equal(u.Groups, groups) {
		t.Errorf("the program is taken for %+v", u)
	}
	review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: status.Token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || review.Status.User.Username != "system:serviceaccount:default:ci" || !slices.Equal(review.Status.Audiences, []string{key.TokenIssuer()}) {
		t.Errorf("review: %+v, %v", review.Status, err)
	}
	if err := admin.CoreV1().ServiceAccounts("default").Delete(ctx, "ci", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := program.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("after the account was deleted: %v, want 401", err)
	}
	makeAccount(t, admin, "ci")
	if _, err := program.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("after it was made again: %v, want 401", err)
	}
	again := h.withToken(askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{}).Token)
	if _, err := again.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	review, err = admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: status.Token}}, metav1.CreateOptions{})
	if err != nil || review.Status.Authenticated || review.Status.Error == "" || review.Status.User.Username != "" {
		t.Errorf("review of a token that has ended: %+v, %v", review.Status, err)
	}
}

// What is wrong with a request for a token is named, and what it gets is what it may have.
func TestRequestsForTokens(t *testing.T) {
	store, key := raftstoretest.New(t, raftstoretest.WithConfig(allLevels)), newKeyOfMesh(t)
	publish(t, store, key)
	h := serveTokens(t, store, newAuthority(t), key)
	admin := h.admin(t)
	makeAccount(t, admin, "ci")
	ask := func(name string, spec authenticationv1.TokenRequestSpec) error {
		_, err := admin.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), name, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
		return err
	}
	seconds := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		account string
		spec    authenticationv1.TokenRequestSpec
		is      func(error) bool
		says    string
	}{
		"no such account": {"nobody", authenticationv1.TokenRequestSpec{}, apierrors.IsNotFound, `"nobody"`},
		"too short":       {"ci", authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(60)}, apierrors.IsInvalid, "spec.expirationSeconds"},
		"a Pod":           {"ci", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p"}}, apierrors.IsInvalid, "spec.boundObjectRef.kind"},
		"no such Secret":  {"ci", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: "s"}}, apierrors.IsNotFound, `"s"`},
	} {
		if err := ask(c.account, c.spec); !c.is(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{ExpirationSeconds: seconds(1 << 20)})
	if left := time.Until(long.ExpirationTimestamp.Time); left > bearer.MaxLifetime || left < bearer.MaxLifetime-time.Minute {
		t.Errorf("a long token is valid for %s", left)
	}
	elsewhere := askToken(t, admin, "ci", authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}})
	if _, err := h.withToken(elsewhere.Token).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token for another audience: %v, want 401", err)
	}
	review, err := admin.AuthenticationV1().TokenReviews().Create(t.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: elsewhere.Token, Audiences: []string{"vault", "x"}},
	}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated || !slices.Equal(review.Status.Audiences, []string{"vault"}) {
		t.Errorf("its audience asks: %+v, %v", review.Status, err)
	}
	foreign, err := newKeyOfMesh(t).SignToken(t.Context(), bearer.Request{
		Account: bearer.Account{Namespace: "default", ServiceAccount: bearer.Ref{Name: "ci", UID: "u"}}, Audiences: []string{key.TokenIssuer()}, Lifetime: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.withToken(foreign.Token).CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token of another mesh: %v, want 401", err)
	}
}

// What ends a token ends the watches that were opened with it, on every host, and no others.
func TestWatchesEndWithTheirToken(t *testing.T) {
	mesh, ca, key := raftstoretest.NewCluster(t, 3, raftstoretest.WithConfig(allLevels)), newAuthority(t), newKeyOfMesh(t)
	publish(t, mesh.Live()[0], key)
	var hosts []*host
	for _, store := range mesh.Live() {
		hosts = append(hosts, serveTokens(t, store, ca, key))
	}
	admin, ctx := hosts[0].admin(t), t.Context()
	open := func(h *host, token string) watch.Interface {
		t.Helper()
		w, err := h.withToken(token).CoreV1().ConfigMaps("default").Watch(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(w.Stop)
		return w
	}
	for _, name := range []string{"ends", "bound", "stays"} {
		makeAccount(t, admin, name)
	}
	if _, err := admin.CoreV1().Secrets("default").Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bound := askToken(t, admin, "bound", authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Secret", APIVersion: "v1", Name: "s"}})
	stays := open(hosts[2], askToken(t, admin, "stays", authenticationv1.TokenRequestSpec{}).Token)
	ends, withSecret := open(hosts[1], askToken(t, admin, "ends", authenticationv1.TokenRequestSpec{}).Token), open(hosts[2], bound.Token)

	if err := admin.CoreV1().ServiceAccounts("default").Delete(ctx, "ends", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, ends, "its account was deleted on another host")
	if err := admin.CoreV1().Secrets("default").Delete(ctx, "s", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, withSecret, "the Secret of its token was deleted")
	if _, err := admin.CoreV1().ConfigMaps("default").Create(ctx, newMap("m", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	next(t, stays, watch.Added, "m")
	publish(t, mesh.Live()[0], newKeyOfMesh(t))
	mustClose(t, stays, "the key that has signed its token was replaced")
}

func mustClose(t *testing.T, w watch.Interface, why string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case _, more := <-w.ResultChan():
			if !more {
				return
			}
		case <-limit:
			t.Fatalf("the watch goes on although %s", why)
		}
	}
}

// Where tokens are not served, one that is shown opens nothing.
func TestTokensWithoutSigner(t *testing.T) {
	h := start(t)
	if _, err := h.withToken("a.b.c").CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("error %v, want 401", err)
	}
	var code int
	h.admin(t).AuthenticationV1().RESTClient().Post().AbsPath("/apis/authentication.k8s.io/v1/tokenreviews").
		Body(&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "a.b.c"}}).Do(t.Context()).StatusCode(&code)
	if code != http.StatusCreated {
		t.Errorf("a review answers %d", code)
	}
}
