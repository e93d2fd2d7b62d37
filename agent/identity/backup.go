package identity

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// A backup is encrypted for a key that follows from the private key of the CA, so whoever has
// the keyring or a recovery bundle opens it, and there is no further key that could be lost.
// The public half is in the note of the bundle in the replicated state: any host can make a
// backup, and needs no passphrase.

// backupKeyUse sets the key of backups apart from anything else that may follow from the key
// of the CA.
const backupKeyUse = "virtmesh backup key v1"

// ageIntro is how a file in the format of age begins.
const ageIntro = "age-encryption.org/v1\n"

// ErrBackupSealed is returned for an encrypted backup that none of the keys at hand opens.
var ErrBackupSealed = errors.New("the backup is encrypted for a keyring that is not at hand")

// BackupRecipient returns for whom backups are encrypted that the key of a CA (PEM) opens.
func BackupRecipient(caKey []byte) (string, error) {
	key, err := backupKey(caKey)
	if err != nil {
		return "", err
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		return "", fmt.Errorf("encode the key of backups: %w", err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(public))), nil
}

// EncryptBackup returns a writer that encrypts for a recipient. Only after Close the backup
// is complete.
func EncryptBackup(to io.Writer, recipient string) (io.WriteCloser, error) {
	who, err := agessh.ParseRecipient(recipient)
	if err != nil {
		return nil, fmt.Errorf("encrypt the backup: %w", err)
	}
	w, err := age.Encrypt(to, who)
	if err != nil {
		return nil, fmt.Errorf("encrypt the backup: %w", err)
	}
	return w, nil
}

// OpenBackup returns a reader of what is in a backup. One that is not encrypted is read as it
// is; an encrypted one is opened with the keys of CAs (PEM), of which empty ones are passed
// over. It returns ErrBackupSealed if none of them opens it.
func OpenBackup(from io.Reader, caKeys ...[]byte) (io.Reader, error) {
	content := bufio.NewReader(from)
	intro, err := content.Peek(len(ageIntro))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	if !bytes.Equal(intro, []byte(ageIntro)) {
		return content, nil
	}
	var keys []age.Identity
	for _, caKey := range caKeys {
		if len(caKey) == 0 {
			continue
		}
		key, err := backupKey(caKey)
		if err != nil {
			return nil, err
		}
		opener, err := agessh.NewEd25519Identity(key)
		if err != nil {
			return nil, fmt.Errorf("open the backup: %w", err)
		}
		keys = append(keys, opener)
	}
	if len(keys) == 0 {
		return nil, ErrBackupSealed
	}
	plain, err := age.Decrypt(content, keys...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return nil, ErrBackupSealed
	}
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	return plain, nil
}

// backupKey derives the key of backups from that of a CA.
func backupKey(caKey []byte) (ed25519.PrivateKey, error) {
	seed, err := deriveFromCA(caKey, backupKeyUse, ed25519.SeedSize)
	if err != nil {
		return nil, fmt.Errorf("derive the key of backups: %w", err)
	}
	return ed25519.NewKeyFromSeed(seed), nil
}
