package membership

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
)

// KeyringBundle implements admin.Keyring.
func (m *Member) KeyringBundle(ctx context.Context) (identity.Bundle, error) {
	secrets, _, err := identity.ReadSecretKeys(ctx, m.store, localRead)
	if err != nil {
		return identity.Bundle{}, fmt.Errorf("read the keys for Secrets: %w", err)
	}
	bundle, err := m.identity.Bundle()
	if errors.Is(err, identity.ErrNoCAKey) {
		return bundle, fault.New(fault.Unavailable, "%s does not vote, and so does not hold the key of the mesh's CA", m.config.Name).
			About(m.config.Name).WithRemedy("make the recovery bundle on a voter; 'virtmesh status' names them")
	}
	if missing := m.secretsKeeper().missing(secrets); err == nil && len(missing) > 0 {
		return identity.Bundle{}, fault.New(fault.Unavailable, "%s does not hold the key for Secrets %s yet: the bundle would be incomplete", m.config.Name, strings.Join(missing, ", ")).
			About(m.config.Name).WithRemedy("try again in a few seconds, or on another voter; 'virtmesh secrets rotate-key --status' says which voters lack the newest key")
	}
	return bundle, err
}

// KeyringBundleMade implements admin.Keyring.
func (m *Member) KeyringBundleMade(ctx context.Context, made admin.KeyringBundleRequest) error {
	held, ok := m.identity.HeldCA()
	if !ok {
		return fault.New(fault.Conflict, "%s does not hold the key of the mesh's CA any more", m.config.Name)
	}
	// A person may have typed for minutes since the content of the bundle was read.
	if inIt := made.CAPin; inIt != held.String() && (inIt != "" || m.store.FeatureLevel() >= level.Succession) {
		return fault.New(fault.Conflict, "the mesh's CA was replaced while the recovery bundle was written, or a command of an earlier version wrote it: the bundle does not have the key of the CA that signs now").
			WithRemedy("make another recovery bundle: 'virtmesh keyring bundle --output FILE'")
	}
	note := identity.BundleMade{CAPin: held.String(), Made: made.Made, Host: m.config.Name, SecretKeys: made.SecretKeys, Recipient: made.Recipient}
	if made.Recipient != "" {
		if err := identity.ValidateRecipient(made.Recipient); err != nil {
			return fault.InField("recipient", "%w", err)
		}
	}
	if m.store.FeatureLevel() >= level.Apart {
		var err error
		if note.BackupRecipient, err = identity.BackupRecipient(m.identity.CAKey()); err != nil {
			return err
		}
	}
	return m.identity.RecordNewBundle(ctx, m.records, note)
}

var _ admin.Keyring = (*Member)(nil)

// describeBundle returns what is told of a recovery bundle. current says whether it gives back
// the present keys.
func (m *Member) describeBundle(made identity.BundleMade, current bool) *admin.KeyringBundle {
	staysGood := m.staysGood(&made)
	return &admin.KeyringBundle{
		Made: made.Made, Host: made.Host, Current: current, OpensBackups: made.BackupRecipient != "" || staysGood, StaysGood: staysGood,
	}
}
