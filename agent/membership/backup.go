package membership

import (
	"context"
	"errors"
	"io"
	"slices"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
)

var _ admin.Backups = (*Member)(nil)

// PrepareBackup implements admin.Backups. The backup is encrypted for the recovery bundle, if
// there is one and the mesh's feature level knows how, unless plain is asked for.
func (m *Member) PrepareBackup(ctx context.Context, plain bool) (admin.BackupContent, admin.WriteBackup, error) {
	custody, err := identity.ReadCustody(ctx, m.store, raftstore.ReadOptions{Consistency: raftstore.Local})
	if err != nil {
		return admin.BackupContent{}, nil, err
	}
	sealFor, err := m.backupFor(ctx, custody)
	if err != nil && !plain {
		return admin.BackupContent{}, nil, err
	}
	content := admin.BackupContent{CAKey: custody.InState()}
	if bundle := sealFor.Bundle; bundle != nil {
		content.Bundle = m.describeBundle(*bundle, custody.Recoverable(custody.CA))
	}
	if plain || len(sealFor.Recipients) == 0 {
		return content, m.writeBackup, nil
	}
	content.Encrypted = true
	return content, func(ctx context.Context, w io.Writer) error {
		sealed, err := identity.EncryptBackup(w, sealFor.Recipients...)
		if err != nil {
			return err
		}
		if err := m.writeBackup(ctx, sealed); err != nil {
			return err
		}
		return sealed.Close()
	}, nil
}

// backupFor returns for whom backups are encrypted. Any host can write the note in the state, so
// from level.Succession on a voter's keyring says it; with plain backups it is only for what is
// told.
func (m *Member) backupFor(ctx context.Context, custody identity.Custody) (identity.BackupFor, error) {
	if m.store.FeatureLevel() >= level.Succession {
		known, err := m.backupByKeyring(ctx)
		if err != nil {
			known, err = m.voters.BackupFor(ctx)
		}
		if err != nil {
			return identity.BackupFor{Bundle: custody.Bundle}, fault.New(fault.Unavailable, "for whom the backup is to be encrypted: %w", err).
				WithRemedy("start the voters, which 'virtmesh status' names; if they answer, make a recovery bundle on one of them; or write a backup that is not encrypted, with --plain")
		}
		return known, nil
	}
	known := identity.BackupFor{Bundle: custody.Bundle}
	if custody.Bundle == nil || custody.Bundle.BackupRecipient == "" {
		return known, nil
	}
	recipient := custody.Bundle.BackupRecipient
	if key := m.identity.CAKeyOf(custody.CA); key != nil && custody.Bundled() {
		// Any host can write the note; who holds the key need not believe it.
		var err error
		if recipient, err = identity.BackupRecipient(key); err != nil {
			return known, err
		}
	}
	known.Recipients = []string{recipient}
	return known, nil
}

// backupByKeyring returns for whom backups are encrypted, by the keyring of this host, which
// must vote.
func (m *Member) backupByKeyring(ctx context.Context) (identity.BackupFor, error) {
	custody, err := identity.ReadCustody(ctx, m.store, localRead)
	if err != nil {
		return identity.BackupFor{}, err
	}
	if !slices.Contains(m.store.Voters(), m.config.Name) {
		return identity.BackupFor{}, fault.New(fault.Unavailable, "%s does not vote", m.config.Name).About(m.config.Name)
	}
	known, err := m.identity.BackupFor(custody.CA)
	if errors.Is(err, identity.ErrNoCAKey) || err == nil && known.Bundle == nil && custody.Bundle != nil {
		return identity.BackupFor{}, fault.New(fault.Unavailable, "the keyring of %s does not know the recovery bundle, or not the key of the CA", m.config.Name).About(m.config.Name)
	}
	return known, err
}

func (m *Member) writeBackup(ctx context.Context, w io.Writer) error {
	_, err := m.store.Backup(ctx, w)
	return err
}

// openBackup returns a reader of what is in a backup that may be encrypted, with the key of a
// recovery bundle (nil: there is none) or of this host.
func openBackup(backup io.Reader, id *identity.Identity, bundle *identity.Bundle) (io.Reader, error) {
	var keys [][]byte
	for _, held := range id.HeldCAs() {
		keys = append(keys, id.CAKeyOf(held))
	}
	remedy := "repeat with --keyring-bundle FILE, a recovery bundle of the mesh; or restore it on a host that was a voter"
	if bundle != nil {
		remedy = "take the recovery bundle that was the newest when the backup was made, or one with the key that the mesh's CA had then"
	}
	plain, err := identity.OpenBackup(backup, bundle, keys...)
	if errors.Is(err, identity.ErrBackupSealed) {
		return nil, fault.New(fault.Conflict, "%w", err).WithRemedy(remedy)
	}
	return plain, err
}

// namesRecipient reports whether the note of the recovery bundle names for whom backups are
// encrypted, as far as this host can tell.
func (k keyringKeeper) namesRecipient(custody identity.Custody) bool {
	key := k.identity.CAKeyOf(custody.CA)
	if custody.Bundle == nil || key == nil {
		return false
	}
	recipient, err := identity.BackupRecipient(key)
	return err == nil && recipient == custody.Bundle.BackupRecipient
}

// nameRecipient notes for whom backups are encrypted that a recovery bundle opens.
func (k keyringKeeper) nameRecipient(ctx context.Context, ca identity.Pin, bundle identity.BundleMade) error {
	var err error
	if bundle.BackupRecipient, err = identity.BackupRecipient(k.identity.CAKeyOf(ca)); err != nil {
		return err
	}
	return identity.AmendBundle(ctx, k.store, bundle)
}
