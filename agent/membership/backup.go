package membership

import (
	"context"
	"errors"
	"io"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
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
	content := admin.BackupContent{CAKey: custody.InState()}
	bundle := custody.Bundle
	if bundle != nil {
		content.Bundle = &admin.KeyringBundle{Made: bundle.Made, Host: bundle.Host, Current: custody.Bundled(), OpensBackups: bundle.BackupRecipient != ""}
	}
	if plain || bundle == nil || bundle.BackupRecipient == "" {
		return content, m.writeBackup, nil
	}
	recipient := bundle.BackupRecipient
	if held, ok := m.identity.HeldCA(); ok && held == custody.CA && custody.Bundled() {
		// Any host can write the note; who holds the key need not believe it.
		if recipient, err = identity.BackupRecipient(m.identity.CAKey()); err != nil {
			return content, nil, err
		}
	}
	content.Encrypted = true
	return content, func(ctx context.Context, w io.Writer) error {
		sealed, err := identity.EncryptBackup(w, recipient)
		if err != nil {
			return err
		}
		if err := m.writeBackup(ctx, sealed); err != nil {
			return err
		}
		return sealed.Close()
	}, nil
}

func (m *Member) writeBackup(ctx context.Context, w io.Writer) error {
	_, err := m.store.Backup(ctx, w)
	return err
}

// openBackup returns a reader of what is in a backup that may be encrypted, with the key of a
// recovery bundle (nil: there is none) or of this host.
func openBackup(backup io.Reader, id *identity.Identity, bundle *identity.Bundle) (io.Reader, error) {
	keys := [][]byte{id.CAKey()}
	remedy := "repeat with --keyring-bundle FILE, a recovery bundle of the mesh; or restore it on a host that was a voter"
	if bundle != nil {
		keys = append(keys, bundle.CAKey)
		remedy = "take a recovery bundle that was made with the key that the mesh's CA had when the backup was made"
	}
	plain, err := identity.OpenBackup(backup, keys...)
	if errors.Is(err, identity.ErrBackupSealed) {
		return nil, fault.New(fault.Conflict, "%w", err).WithRemedy(remedy)
	}
	return plain, err
}

// namesRecipient reports whether the note of the recovery bundle names for whom backups are
// encrypted, as far as this host can tell.
func (k keyringKeeper) namesRecipient(custody identity.Custody) bool {
	held, ok := k.identity.HeldCA()
	if custody.Bundle == nil || !ok || held != custody.CA {
		return false
	}
	recipient, err := identity.BackupRecipient(k.identity.CAKey())
	return err == nil && recipient == custody.Bundle.BackupRecipient
}

// nameRecipient notes for whom backups are encrypted that a recovery bundle opens.
func (k keyringKeeper) nameRecipient(ctx context.Context, bundle identity.BundleMade) error {
	var err error
	if bundle.BackupRecipient, err = identity.BackupRecipient(k.identity.CAKey()); err != nil {
		return err
	}
	return identity.AmendBundle(ctx, k.store, bundle)
}
