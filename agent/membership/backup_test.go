package membership

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/port/admin"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestRestoreOnAHostWithoutCopy: the last resort of a mesh of which no copy is left.
func TestRestoreOnAHostWithoutCopy(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	first := found(t, path, config)
	var backup bytes.Buffer
	if _, err := first.store.Backup(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	shutdown(first)
	_, err := Restore(t.Context(), config, bytes.NewReader(backup.Bytes()), Recovery{})
	if !errors.Is(err, raftstore.ErrHasState) || !strings.Contains(err.Error(), "mv "+config.raftDir()) {
		t.Errorf("restored over a copy: %v", err)
	}
	loseCopy(t, first)
	if _, err := Restore(t.Context(), config, bytes.NewReader(backup.Bytes()), Recovery{}); err != nil {
		t.Fatal(err)
	}
	a := boot(t, config)
	if err := a.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := identity.NewHosts(a.store).Get(t.Context(), "host1", raftstore.ReadOptions{}); err != nil {
		t.Errorf("the restored mesh does not know its host: %v", err)
	}
	if _, err := openSocketAndRestore(t, config); err == nil || !strings.Contains(err.Error(), "running") {
		t.Errorf("restored under a running agent: %v", err)
	}
}

// backUp returns a backup of a host, and what the host says of it.
func backUp(t *testing.T, m *Member, plain bool) ([]byte, admin.BackupContent) {
	t.Helper()
	content, write, err := m.PrepareBackup(t.Context(), plain)
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := write(t.Context(), &backup); err != nil {
		t.Fatal(err)
	}
	return backup.Bytes(), content
}

// Once there is a recovery bundle, a backup shows nothing to who has not the bundle or the
// keyring, whichever host makes it. What is asked for in clear stays so.
func TestBackupsAreEncrypted(t *testing.T) {
	t.Parallel()
	first, second, bundle := withdrawn(t)
	const value = "a password in a Secret"
	if _, err := second.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: "/secret", Value: []byte(value)}}}); err != nil {
		t.Fatal(err)
	}
	plain, content := backUp(t, second, true)
	if !bytes.Contains(plain, []byte(value)) || content.Encrypted || content.CAKey || !content.Bundle.OpensBackups {
		t.Errorf("a plain backup without the value, or %+v", content)
	}
	backups := map[string][]byte{"plain": plain}
	for _, m := range []*Member{first, second} {
		sealed, content := backUp(t, m, false)
		if bytes.Contains(sealed, []byte(value)) || bytes.Contains(sealed, []byte("host1")) || !content.Encrypted || content.CAKey {
			t.Errorf("the backup of %s shows the state, or %+v", m.config.Name, content)
		}
		backups["of "+m.config.Name] = sealed
	}
	shutdown(first)
	shutdown(second)
	loseCopy(t, second)
	if _, err := Restore(t.Context(), second.config, bytes.NewReader(backups["of host1"]), Recovery{}); !errors.Is(err, identity.ErrBackupSealed) || !strings.Contains(fault.Of(err).Remedy, "--keyring-bundle FILE") {
		t.Errorf("restored without the key: %v", err)
	}
	cut := backups["of host1"][:len(backups["of host1"])-20]
	if _, err := Restore(t.Context(), second.config, bytes.NewReader(cut), Recovery{Bundle: &bundle}); err == nil {
		t.Error("restored a backup that was cut")
	}
	for name, backup := range backups {
		if _, err := Restore(t.Context(), second.config, bytes.NewReader(backup), Recovery{Bundle: &bundle}); err != nil {
			t.Fatalf("the backup %s: %v", name, err)
		}
		alone := boot(t, second.config)
		if err := alone.joinStore(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got, _, err := alone.store.Get(t.Context(), "/secret", raftstore.ReadOptions{}); err != nil || string(got.Value) != value {
			t.Errorf("the backup %s brings back %q, %v", name, got.Value, err)
		}
		shutdown(alone)
		loseCopy(t, alone)
	}
}

// Nobody gets backups by writing his own name into the note of the bundle, whichever host makes
// the backup: voters say for whom it is. A bundle opens those that were made after it, and no
// other bundle but with the key of the same CA.
func TestBackupsAreForTheNewestBundle(t *testing.T) {
	t.Parallel()
	first, second, bundle := escrowing(t)
	thief := bundle
	if err := thief.AddRecipient(); err != nil {
		t.Fatal(err)
	}
	recipient, err := thief.Recipient()
	if err != nil {
		t.Fatal(err)
	}
	note := *custodyOf(t, first).Bundle
	note.Recipient, note.BackupRecipient, note.Number = recipient, recipient, note.Number+1
	if err := identity.RecordBundle(t.Context(), second.store, note); err != nil {
		t.Fatal(err)
	}
	sameCopy(t, second, first)
	// Neither has the key of the mesh's CA any more, as after a rotation.
	bundle.CAKey, thief.CAKey = nil, nil
	for _, m := range []*Member{first, second} {
		sealed, content := backUp(t, m, false)
		if _, err := identity.OpenBackup(bytes.NewReader(sealed), &thief); !errors.Is(err, identity.ErrBackupSealed) || !content.Encrypted {
			t.Errorf("the backup of %s is for who wrote the note: %v", m.config.Name, err)
		}
		if _, err := identity.OpenBackup(bytes.NewReader(sealed), &bundle); err != nil {
			t.Errorf("the bundle does not open the backup of %s: %v", m.config.Name, err)
		}
		if _, err := identity.OpenBackup(bytes.NewReader(sealed), nil, first.identity.CAKey()); err != nil {
			t.Errorf("the keyring does not open the backup of %s: %v", m.config.Name, err)
		}
	}
	shutdown(first)
	if _, _, err := second.PrepareBackup(t.Context(), false); !errors.Is(err, fault.Unavailable) || !strings.Contains(fault.Of(err).Remedy, "--plain") {
		t.Errorf("no voter answers: %v", err)
	}
}

// The leader notes for whom backups are encrypted below level.Succession, with a bundle that was
// made before the mesh knew how, and puts the note right.
func TestBackupsAreForTheBundle(t *testing.T) {
	t.Parallel()
	first, second, _ := withdrawn(t)
	other, err := identity.NewCA("0123456789abcdef")
	if err != nil {
		t.Fatal(err)
	}
	key, err := other.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := identity.BackupRecipient(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, recipient := range []string{"", stranger} {
		note := *custodyOf(t, first).Bundle
		want := note.BackupRecipient
		note.BackupRecipient = recipient
		if err := identity.RecordBundle(t.Context(), second.store, note); err != nil {
			t.Fatal(err)
		}
		raftstoretest.Eventually(t, func() error {
			if got := custodyOf(t, first).Bundle.BackupRecipient; got != recipient {
				return fmt.Errorf("host1 has the note with %q", got)
			}
			return nil
		})
		if recipient != "" {
			sealed, _ := backUp(t, first, false)
			if _, err := identity.OpenBackup(bytes.NewReader(sealed), nil, key); !errors.Is(err, identity.ErrBackupSealed) {
				t.Errorf("the backup of a voter is for who wrote the note: %v", err)
			}
		}
		stepUntil(t, first, nameRecipient)
		if got := custodyOf(t, first).Bundle; got.BackupRecipient != want || got.Host != note.Host || !got.Made.Equal(note.Made) {
			t.Errorf("the note is %+v", got)
		}
	}
}

// openSocketAndRestore restores while something answers on the agent's socket.
func openSocketAndRestore(t *testing.T, config Config) (raftstore.Recovered, error) {
	t.Helper()
	listener, err := admin.OpenSocket(config.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return Restore(t.Context(), config, strings.NewReader(""), Recovery{})
}
