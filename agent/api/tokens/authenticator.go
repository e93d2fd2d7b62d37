package tokens

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"virtmesh/agent/bearer"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// errEnded is the answer to a token whose account, or what it is bound to, is gone.
var errEnded = errors.New("the token has ended: its service account, or the Secret that it is bound to, was deleted")

const (
	// lookRate, in a second, and lookBurst bound how often the mesh is asked for what this host's
	// copy does not have, and lookPatience how long one answer may take.
	lookRate     = 5
	lookBurst    = 20
	lookPatience = 2 * time.Second
)

// localRead reads this host's copy.
var localRead = raftstore.ReadOptions{Consistency: raftstore.Local}

// Authenticator recognises the tokens of service accounts. Its methods may be called concurrently.
type Authenticator struct {
	store    objects.Store
	issuer   string
	sessions *Sessions
	// looks bounds how often the mesh is asked for an account that this host's copy does not have.
	looks *rate.Limiter
	log   *slog.Logger
	warn  rate.Sometimes
}

var _ authenticator.Token = (*Authenticator)(nil)

// Config is what this package needs.
type Config struct {
	// Signer signs.
	Signer Signer
	// Store has the accounts. It need not open what is encrypted.
	Store objects.Store
	// Logger is told why tokens cannot be judged; nil tells nobody.
	Logger *slog.Logger
}

// New returns an Authenticator of the tokens of a Signer.
func New(cfg Config) *Authenticator {
	a := &Authenticator{
		store: cfg.Store, issuer: cfg.Signer.TokenIssuer(), looks: rate.NewLimiter(lookRate, lookBurst),
		log: cfg.Logger, warn: rate.Sometimes{Interval: time.Minute},
	}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.sessions = newSessions(cfg.Store, a.stillValid)
	return a
}

// Sessions returns what keeps the lasting requests that were made with tokens.
func (a *Authenticator) Sessions() *Sessions { return a.sessions }

// AuthenticateToken implements authenticator.Token. It returns false without an error for what
// may be a token of another issuer. Unless the context names audiences, the token must be for the
// API. If ctx is that of a request in Sessions, the request ends with the token.
func (a *Authenticator) AuthenticateToken(ctx context.Context, text string) (*authenticator.Response, bool, error) {
	if found, ok := foundBefore(ctx, text); ok {
		return found.response, found.ok, found.err
	}
	token, err := a.verify(ctx, text)
	if errors.Is(err, bearer.ErrForeign) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	wanted, named := authenticator.AudiencesFrom(ctx)
	if !named || len(wanted) == 0 {
		wanted = authenticator.Audiences{a.issuer}
	}
	audiences := wanted.Intersect(authenticator.Audiences(token.Audience))
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("the token is for %q, not for %q", token.Audience, wanted)
	}
	// The request is in Sessions before the account is looked for, so that its deletion is found
	// here or there.
	a.sessions.bind(ctx, token)
	if err := a.mustExist(ctx, token.Account); err != nil {
		return nil, false, err
	}
	account := token.Account
	info := serviceaccount.ServiceAccountInfo{
		Name: account.ServiceAccount.Name, Namespace: account.Namespace, UID: account.ServiceAccount.UID, CredentialID: "JTI=" + token.ID,
	}
	return &authenticator.Response{Audiences: audiences, User: info.UserInfo()}, true, nil
}

// verify judges what a token says. It returns an undecidedError if the keys cannot be read.
func (a *Authenticator) verify(ctx context.Context, text string) (bearer.Token, error) {
	keys, _, err := identity.ReadTokenKeys(ctx, a.store, localRead)
	if err != nil {
		return bearer.Token{}, &undecidedError{err}
	}
	token, err := bearer.Verify(text, a.issuer, keys, time.Now())
	if errors.Is(err, bearer.ErrUnreadableKey) {
		err = &undecidedError{err}
	}
	return token, err
}

// mustExist returns an error unless an account, and what its token is bound to, are there: errEnded,
// or an undecidedError if that cannot be found out. A token
// may be used on a host whose copy is from before its account was created, so what is not in the
// copy is looked for in the mesh. Only who has a token that the mesh has signed can cause that, also
// with one that has ended, so it is done a few times in a second for all clients together.
func (a *Authenticator) mustExist(ctx context.Context, account bearer.Account) error {
	err := a.find(ctx, account, localRead)
	if errors.Is(err, errEnded) && a.looks.Allow() {
		ctx, cancel := context.WithTimeout(ctx, lookPatience)
		defer cancel()
		err = a.find(ctx, account, raftstore.ReadOptions{})
	}
	return err
}

func (a *Authenticator) find(ctx context.Context, account bearer.Account, opts raftstore.ReadOptions) error {
	if err := find[*corev1.ServiceAccount](ctx, a.store, account.Namespace, account.ServiceAccount, opts); err != nil {
		return err
	}
	if account.Secret == nil {
		return nil
	}
	return find[*corev1.Secret](ctx, a.store, account.Namespace, *account.Secret, opts)
}

func find[T objects.Object](ctx context.Context, store objects.Store, namespace string, ref bearer.Ref, opts raftstore.ReadOptions) error {
	meta, err := objects.GetMeta[T](ctx, store, objects.Key{Namespace: namespace, Name: ref.Name}, opts)
	switch {
	case apierrors.IsNotFound(err), err == nil && (string(meta.UID) != ref.UID || meta.DeletionTimestamp != nil):
		return errEnded
	case err != nil:
		return &undecidedError{fmt.Errorf("look for what the token is of: %w", err)}
	}
	return nil
}

// stillValid reports whether a token that was valid is so by this host's copy.
func (a *Authenticator) stillValid(ctx context.Context, token bearer.Token) bool {
	keys, _, err := identity.ReadTokenKeys(ctx, a.store, localRead)
	if _, known := keys.Find(token.KeyID); err == nil && !known {
		return false
	}
	// What cannot be read ends nothing: the record is spoilt, or the store has stopped.
	return !errors.Is(a.find(ctx, token.Account, localRead), errEnded)
}
