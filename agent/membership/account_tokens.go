package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/bearer"
	"virtmesh/agent/fault"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
)

// TokenIssuer returns what the tokens of service accounts name as their issuer.
func (m *Member) TokenIssuer() string { return bearer.Issuer(m.identity.MeshID()) }

// SignToken returns a token of a service account: this host signs it if it can, else a voter does.
// It may block on the network until ctx ends, and may be called concurrently.
func (m *Member) SignToken(ctx context.Context, request bearer.Request) (bearer.Signed, error) {
	signed, err := m.signTokenHere(ctx, request)
	if !errors.Is(err, fault.Unavailable) {
		return signed, err
	}
	return m.voters.SignToken(ctx, request)
}

// signTokenHere signs a token with the key of this host. Whoever asks gets only a token that every
// host finds valid: for an account that is there, under this UID, and bound to a Secret that is
// there. For which of the accounts a host asks, a voter cannot judge: any host serves the API.
func (m *Member) signTokenHere(ctx context.Context, request bearer.Request) (bearer.Signed, error) {
	if m.store.FeatureLevel() < level.Access {
		return bearer.Signed{}, fault.New(fault.Conflict, "service accounts have tokens from feature level %d on, and the mesh is at %d", level.Access, m.store.FeatureLevel()).
			WithRemedy("raise the mesh's feature level first: 'virtmesh level' says how")
	}
	if !slices.Contains(m.store.Voters(), m.config.Name) {
		return bearer.Signed{}, fault.New(fault.Unavailable, "%s does not vote, and only voters sign tokens of service accounts", m.config.Name).About(m.config.Name)
	}
	key, err := m.tokenKeysKeeper().signingKey(ctx)
	if err != nil {
		return bearer.Signed{}, fault.New(fault.Unavailable, "%w", err).About(m.config.Name)
	}
	if err := m.mustHaveAccount(ctx, request.Account); err != nil {
		return bearer.Signed{}, err
	}
	signed, err := key.Sign(m.TokenIssuer(), request, time.Now())
	if err != nil {
		return bearer.Signed{}, fault.New(fault.Invalid, "%w", err)
	}
	return signed, nil
}

// mustHaveAccount returns an error unless an account, and the Secret that its token is bound to,
// exist under these UIDs and are not being deleted. It asks the mesh: this host's copy may be from
// before they were created.
func (m *Member) mustHaveAccount(ctx context.Context, a bearer.Account) error {
	store := objects.SealedFromRaft(m.records, nil)
	if err := mustExist[*corev1.ServiceAccount](ctx, store, a.Namespace, a.ServiceAccount); err != nil {
		return err
	}
	if a.Secret == nil {
		return nil
	}
	return mustExist[*corev1.Secret](ctx, store, a.Namespace, *a.Secret)
}

func mustExist[T objects.Object](ctx context.Context, store objects.Store, namespace string, ref bearer.Ref) error {
	key := objects.Key{Namespace: namespace, Name: ref.Name}
	meta, err := objects.GetMeta[T](ctx, store, key, raftstore.ReadOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && (string(meta.UID) != ref.UID || meta.DeletionTimestamp != nil):
		return fault.New(fault.Invalid, "%s %s does not exist, or is another one than the one that the token is for", objects.KindFor[T]().GVK.Kind, key).About(key.String())
	case err != nil:
		return fmt.Errorf("sign a token: %w", err)
	}
	return nil
}
