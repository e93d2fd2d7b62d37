package identity

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"golang.org/x/crypto/ssh"
)

// A backup is encrypted for a key that follows from the private key of the CA that signs then, so
// whoever has the keyring of that time opens it, and for the recipient of the newest recovery
// bundle; there is no further key that could be lost. Any host can make a backup, and needs no
// passphrase: from feature level level.Succession on it asks a voter for whom, since any host
// can write the note of the bundle in the replicated state.

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

// BackupFor says for whom the next backup is encrypted.
type BackupFor struct {
	// Bundle is the newest recovery bundle; nil if none was made, and nothing is encrypted.
	Bundle *BundleMade `json:"bundle,omitempty"`
	// Recipients are those of the bundle and of the CA that signs; each of them opens it.
	Recipients []string `json:"recipients,omitempty"`
}

// BackupFor returns for whom backups are encrypted now, by this host's keyring. It returns
// ErrNoCAKey on a host that does not hold the key of the CA that signs.
func (i *Identity) BackupFor(ca Pin) (BackupFor, error) {
	bundle, key := i.KnownBundle(), i.caKeyOf(ca.String())
	if len(key) == 0 {
		return BackupFor{}, ErrNoCAKey
	}
	if bundle == nil {
		return BackupFor{}, nil
	}
	keyring, err := BackupRecipient(key)
	if err != nil {
		return BackupFor{}, err
	}
	answer := BackupFor{Bundle: bundle, Recipients: []string{keyring}}
	if bundle.Recipient != "" {
		answer.Recipients = append(answer.Recipients, bundle.Recipient)
	}
	return answer, nil
}

// EncryptBackup returns a writer that encrypts for recipients, each of whom can open the backup.
// Only after Close it is complete.
func EncryptBackup(to io.Writer, recipients ...string) (io.WriteCloser, error) {
	var who []age.Recipient
	for _, text := range recipients {
		recipient, err := parseRecipient(text)
		if err != nil {
			return nil, fmt.Errorf("encrypt the backup: %w", err)
		}
		who = append(who, recipient)
	}
	w, err := age.Encrypt(to, who...)
	if err != nil {
		return nil, fmt.Errorf("encrypt the backup: %w", err)
	}
	return w, nil
}

// parseRecipient reads the recipient of a bundle or one that follows from the key of a CA.
func parseRecipient(text string) (age.Recipient, error) {
	if strings.HasPrefix(text, "age1") {
		return age.ParseX25519Recipient(text)
	}
	return agessh.ParseRecipient(text)
}

// OpenBackup returns a reader of what is in a backup. One that is not encrypted is read as it
// is; an encrypted one is opened with a recovery bundle (nil: there is none) or the keys of CAs
// (PEM), of which empty ones are passed over. It returns ErrBackupSealed if none opens it.
func OpenBackup(from io.Reader, bundle *Bundle, caKeys ...[]byte) (io.Reader, error) {
	content := bufio.NewReader(from)
	intro, err := content.Peek(len(ageIntro))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read the backup: %w", err)
	}
	if !bytes.Equal(intro, []byte(ageIntro)) {
		return content, nil
	}
	var keys []age.Identity
	if bundle != nil {
		opener, err := bundle.opener()
		if err != nil {
			return nil, err
		}
		if opener != nil {
			keys = append(keys, opener)
		}
		caKeys = append(slices.Clone(caKeys), bundle.CAKey)
	}
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
