package membership

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"virtmesh/agent/identity"
	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// openVault makes what seals and opens the Secrets that this host writes and reads.
func (m *Member) openVault() (err error) {
	m.vault, err = sealed.NewVault(sealed.Config{
		Recipient: m.secretsRecipient, Held: m.identity.SecretKey, Ask: m.voters.OpenLocks,
	})
	return err
}

// Vault returns what seals and opens the Secrets that this host writes and reads.
func (m *Member) Vault() *sealed.Vault { return m.vault }

// secretsRecipient returns the key that encrypts now, by this host's copy of the state.
func (m *Member) secretsRecipient(ctx context.Context) (sealed.Recipient, error) {
	keys, stored, err := identity.ReadSecretKeys(ctx, m.store, localRead)
	if err != nil {
		return sealed.Recipient{}, err
	}
	return recipientOf(keys, stored)
}

// recipientOf returns what encrypts by a stored record: what is encrypted also if its key is
// not to be had.
func recipientOf(keys identity.SecretKeysRecord, stored raftstore.Record) (sealed.Recipient, error) {
	key, err := keys.Recipient()
	return sealed.Recipient{Key: key, Kinds: keys.Kinds, While: raftstore.Condition{Key: stored.Key, ModRevision: stored.ModRevision}}, err
}

// namedKinds returns the kinds that are to be encrypted besides Secrets, by this host's copy of
// the MeshConfig.
func (k secretsKeeper) namedKinds(ctx context.Context) ([]string, error) {
	config, err := objects.Get[*meshv1alpha1.MeshConfig](ctx, objects.FromRaft(k.replica, nil), objects.Key{Name: meshv1alpha1.Name}, localRead)
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("read which kinds are encrypted: %w", err)
	}
	return slices.Sorted(slices.Values(meshv1alpha1.EncryptedKinds(config))), nil
}

// chooseKinds lets the kinds that the MeshConfig names be encrypted from now on, and no others.
func (k secretsKeeper) chooseKinds(ctx context.Context, keys identity.SecretKeysRecord, stored raftstore.Record) (err error) {
	if keys.Kinds, err = k.namedKinds(ctx); err != nil {
		return err
	}
	return identity.StoreSecretKeys(ctx, k.store, stored, keys)
}
