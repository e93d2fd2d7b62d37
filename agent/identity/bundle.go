package identity

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"filippo.io/age"
	"filippo.io/age/armor"

	"virtmesh/agent/hostseal"
	"virtmesh/agent/sealed"
)

// MinPassphrase is the least number of characters of a recovery bundle's passphrase.
const MinPassphrase = 12

// maxBundle bounds what is read of a recovery bundle, in bytes; a real one has about 2,000.
const maxBundle = 64 << 10

// ErrPassphrase is returned for a recovery bundle that the passphrase does not open.
var ErrPassphrase = errors.New("the passphrase does not open the recovery bundle")

// Bundle is the content of a recovery bundle: what the voters' keyring holds, and which mesh
// it is of. With it the mesh can be continued from the copy of a host that holds no key.
type Bundle struct {
	MeshID string `json:"meshID"`
	// Made is when the bundle was made.
	Made time.Time `json:"made"`
	// CACertificate and CAKey are the CA that signs, PEM.
	CACertificate []byte `json:"caCertificate"`
	CAKey         []byte `json:"caKey"`
	// SecretKeys are the private keys for Secrets. A bundle from before feature level
	// level.Apart has none.
	SecretKeys [][]byte `json:"secretKeys,omitempty"`
	// Recovery opens what is encrypted for the bundle after it was made: the escrow of the
	// keyring, and backups. It is nowhere else. Empty in a bundle of an earlier version.
	Recovery string `json:"recovery,omitempty"`
	// laterCAKeys are keys of CAs, PEM, that an escrow has added.
	laterCAKeys [][]byte
}

// ValidatePassphrase returns an error for a passphrase that is too short, or that could not
// be typed again.
func ValidatePassphrase(passphrase string) error {
	switch {
	case !utf8.ValidString(passphrase):
		return errors.New("the passphrase is not UTF-8 text")
	case utf8.RuneCountInString(passphrase) < MinPassphrase:
		return fmt.Errorf("the passphrase has fewer than %d characters", MinPassphrase)
	}
	return nil
}

// Bundle returns what a recovery bundle of this host's mesh holds, or ErrNoCAKey.
func (i *Identity) Bundle() (Bundle, error) {
	ca, err := i.signingCA()
	if err != nil {
		return Bundle{}, err
	}
	return newBundle(i.MeshID(), ca.CertificatePEM(), i.CAKeyOf(ca.Pin()), i.SecretKeys())
}

// CAPin returns the pin of the CA whose key is in the bundle.
func (b Bundle) CAPin() (Pin, error) {
	certs, err := ParseCertificates(b.CACertificate)
	if err != nil {
		return Pin{}, fmt.Errorf("read the CA of the recovery bundle: %w", err)
	}
	return PinOf(certs[0]), nil
}

// ReadBundle returns what a recovery bundle of the mesh holds, by the keyring in a state
// directory, which it does not change: that of a host whose agent does not run, or a copy of one.
func ReadBundle(dir string, seals *hostseal.Seals) (Bundle, error) {
	id, err := readIdentity(dir, seals)
	if err != nil {
		return Bundle{}, err
	}
	if shut := id.Shut(); len(shut) > 0 {
		return Bundle{}, errors.Join(shut...)
	}
	b, err := id.Bundle()
	if err != nil {
		return Bundle{}, fmt.Errorf("read the keyring in %s: %w", dir, err)
	}
	return b, nil
}

func newBundle(meshID string, certificate, caKey []byte, secretKeys []sealed.PrivateKey) (Bundle, error) {
	b := Bundle{MeshID: meshID, Made: time.Now().UTC(), CACertificate: certificate, CAKey: caKey}
	for _, key := range secretKeys {
		data, err := key.Bytes()
		if err != nil {
			return Bundle{}, fmt.Errorf("read a key for Secrets: %w", err)
		}
		b.SecretKeys = append(b.SecretKeys, data)
	}
	return b, nil
}

// Seal encrypts the bundle with a passphrase, as text in the format of age (scrypt). It
// takes about a second of one processor and 256 MiB of memory.
func (b Bundle) Seal(passphrase string) ([]byte, error) {
	if err := ValidatePassphrase(passphrase); err != nil {
		return nil, err
	}
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, fmt.Errorf("seal the recovery bundle: %w", err)
	}
	plain, err := json.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("seal the recovery bundle: %w", err)
	}
	var sealed bytes.Buffer
	text := armor.NewWriter(&sealed)
	content, err := age.Encrypt(text, recipient)
	if err == nil {
		_, err = content.Write(plain)
	}
	if err == nil {
		err = content.Close()
	}
	if err == nil {
		err = text.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("seal the recovery bundle: %w", err)
	}
	return sealed.Bytes(), nil
}

// OpenBundle decrypts a recovery bundle. It returns ErrPassphrase for another passphrase,
// and checks that key and certificate of the CA belong together.
func OpenBundle(r io.Reader, passphrase string) (Bundle, error) {
	var b Bundle
	with, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return b, fmt.Errorf("open the recovery bundle: %w", err)
	}
	content, err := age.Decrypt(armor.NewReader(io.LimitReader(r, maxBundle)), with)
	var other *age.NoIdentityMatchError
	if errors.As(err, &other) {
		return b, ErrPassphrase
	}
	if err != nil {
		return b, fmt.Errorf("open the recovery bundle: %w", err)
	}
	if err := json.NewDecoder(io.LimitReader(content, maxBundle)).Decode(&b); err != nil {
		return b, fmt.Errorf("read the recovery bundle: %w", err)
	}
	if _, err := ParseCA(b.CACertificate, b.CAKey); err != nil {
		return b, fmt.Errorf("read the recovery bundle: %w", err)
	}
	_, err = b.opener()
	return b, err
}

// OpenSecretKeys returns the private keys for Secrets that the bundle holds.
func (b Bundle) OpenSecretKeys() ([]sealed.PrivateKey, error) {
	var keys []sealed.PrivateKey
	for _, data := range b.SecretKeys {
		key, err := sealed.ParsePrivateKey(data)
		if err != nil {
			return nil, fmt.Errorf("read the recovery bundle: %w", err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// SecretKeyIDs returns the names of the keys for Secrets that the bundle holds.
func (b Bundle) SecretKeyIDs() ([]string, error) {
	keys, err := b.OpenSecretKeys()
	return secretKeyIDs(keys), err
}

// TakeBundle puts the keys of a recovery bundle into the keyring of this host. It refuses
// the bundle of another mesh, and one of a CA that the host does not trust any more and that
// opens no escrow.
func (i *Identity) TakeBundle(b Bundle) error {
	if b.MeshID != i.MeshID() {
		return fmt.Errorf("the recovery bundle is of mesh %s, and this host is of mesh %s", b.MeshID, i.MeshID())
	}
	secrets, err := b.OpenSecretKeys()
	if err != nil {
		return err
	}
	if err := i.fitsTrust(b.CAKey); err != nil && b.Recovery == "" {
		return fmt.Errorf("the recovery bundle of %s does not fit the CA that this host trusts: %w", b.Made.Format(time.DateOnly), err)
	}
	for _, key := range append([][]byte{b.CAKey}, b.laterCAKeys...) {
		if err := i.KeepCAKey(key); err != nil {
			return err
		}
	}
	return i.KeepSecretKeys(secrets...)
}

// fitsTrust returns an error unless a key (PEM) is that of a CA that this host trusts.
func (i *Identity) fitsTrust(caKey []byte) error {
	key, err := newCAKey(caKey)
	if err != nil {
		return err
	}
	if !slices.Contains(pinsOf(i.CABundle()), key.pin) {
		return errors.New("key and certificate do not belong together")
	}
	return nil
}
