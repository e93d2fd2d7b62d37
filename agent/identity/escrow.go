package identity

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"filippo.io/age"

	"virtmesh/raftstore"
)

// KeyEscrow holds the EscrowRecord in the replicated store, from feature level
// level.Succession on.
const KeyEscrow = "/mesh/escrow"

// EscrowRecord is the keyring of the voters, encrypted for the recipient of the newest
// recovery bundle. So a bundle gives back keys that were made after it.
type EscrowRecord struct {
	// Recipient is that of BundleMade.
	Recipient string `json:"recipient"`
	// Holds names the keys in it.
	Holds Holds     `json:"holds"`
	Made  time.Time `json:"made"`
	// Sealed is the keyring in the format of age.
	Sealed []byte `json:"sealed"`
	// Vouchers say, by the pin of a CA, that who wrote the record held the key of that CA. Any
	// host can write a record, and only the bundle opens it, so voters go by them.
	Vouchers map[string][]byte `json:"vouchers"`
}

// Holds names keys of the keyring.
type Holds struct {
	// CAPins are the pins of the CAs whose private keys are held.
	CAPins []string `json:"caPins,omitempty"`
	// SecretKeyIDs name the private keys for Secrets.
	SecretKeyIDs []string `json:"secretKeyIDs,omitempty"`
}

// HasSecretKeys reports whether the keys for Secrets of some names are among them.
func (h Holds) HasSecretKeys(ids ...string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(h.SecretKeyIDs, id) })
}

// Holds reports whether this host holds all of some keys.
func (i *Identity) Holds(keys Holds) bool {
	lacksCA := slices.ContainsFunc(keys.CAPins, func(pin string) bool { return len(i.caKeyOf(pin)) == 0 })
	return !lacksCA && Holds{SecretKeyIDs: i.SecretKeyIDs()}.HasSecretKeys(keys.SecretKeyIDs...)
}

// ReadEscrow reads the escrow and the revision of its record; nil if there is none.
func ReadEscrow(ctx context.Context, store Store, opts raftstore.ReadOptions) (*EscrowRecord, raftstore.Record, error) {
	var escrow EscrowRecord
	stored, err := readJSON(ctx, store, KeyEscrow, opts, &escrow)
	if errors.Is(err, raftstore.ErrNotFound) {
		return nil, raftstore.Record{Key: KeyEscrow}, nil
	}
	if err != nil {
		return nil, raftstore.Record{}, err
	}
	return &escrow, stored, nil
}

// ParseEscrow returns what the record at KeyEscrow says.
func ParseEscrow(record []byte) (EscrowRecord, error) {
	var escrow EscrowRecord
	if err := json.Unmarshal(record, &escrow); err != nil {
		return escrow, fmt.Errorf("read %s: %w", KeyEscrow, err)
	}
	return escrow, nil
}

// StoreEscrow replaces the escrow as it was read.
func StoreEscrow(ctx context.Context, store Store, stored raftstore.Record, escrow EscrowRecord) error {
	op, err := putOp(KeyEscrow, escrow)
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: []raftstore.Condition{{Key: KeyEscrow, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("store the escrow of the keyring: %w", err)
	}
	return nil
}

// escrowVoucherUse sets the key of vouchers apart from anything else that follows from the key
// of a CA.
const escrowVoucherUse = "virtmesh escrow voucher v1"

// escrowed is what an escrow has sealed.
type escrowed struct {
	MeshID string `json:"meshID"`
	// CAKeys are private keys of CAs, PEM; SecretKeys those for Secrets.
	CAKeys     [][]byte `json:"caKeys"`
	SecretKeys [][]byte `json:"secretKeys,omitempty"`
}

// SealEscrow returns an escrow of this host's keys for the recipient of a recovery bundle. It
// fails if the host does not hold all keys that are named.
func (i *Identity) SealEscrow(recipient string, holds Holds) (EscrowRecord, error) {
	record := EscrowRecord{Recipient: recipient, Holds: holds, Made: time.Now().UTC(), Vouchers: map[string][]byte{}}
	content := escrowed{MeshID: i.MeshID()}
	for _, pin := range holds.CAPins {
		key := i.caKeyOf(pin)
		if len(key) == 0 {
			return EscrowRecord{}, fmt.Errorf("put the keyring into escrow: this host does not hold the key of the CA %s", pin)
		}
		content.CAKeys = append(content.CAKeys, key)
	}
	for _, id := range holds.SecretKeyIDs {
		key, ok := i.SecretKey(id)
		if !ok {
			return EscrowRecord{}, fmt.Errorf("put the keyring into escrow: this host does not hold the key for Secrets %s", id)
		}
		data, err := key.Bytes()
		if err != nil {
			return EscrowRecord{}, fmt.Errorf("put the key for Secrets %s into escrow: %w", id, err)
		}
		content.SecretKeys = append(content.SecretKeys, data)
	}
	var err error
	if record.Sealed, err = content.sealFor(recipient); err != nil {
		return EscrowRecord{}, fmt.Errorf("put the keyring into escrow: %w", err)
	}
	for n, pin := range holds.CAPins {
		if record.Vouchers[pin], err = record.voucher(i.MeshID(), content.CAKeys[n]); err != nil {
			return EscrowRecord{}, fmt.Errorf("vouch for the escrow of the keyring: %w", err)
		}
	}
	return record, nil
}

func (c escrowed) sealFor(recipient string) ([]byte, error) {
	who, err := age.ParseX25519Recipient(recipient)
	if err != nil {
		return nil, err
	}
	plain, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, who)
	if err == nil {
		_, err = w.Write(plain)
	}
	if err == nil {
		err = w.Close()
	}
	return sealed.Bytes(), err
}

// voucher returns what only a holder of the key of a CA (PEM) can say of the record.
func (e EscrowRecord) voucher(meshID string, caKey []byte) ([]byte, error) {
	secret, err := deriveFromCA(caKey, escrowVoucherUse, sha256.Size)
	if err != nil {
		return nil, err
	}
	e.Vouchers = nil
	statement, err := json.Marshal(struct {
		MeshID string
		EscrowRecord
	}{meshID, e})
	if err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, secret)
	mac.Write(statement)
	return mac.Sum(nil), nil
}

// deriveFromCA returns a secret that follows from the private key of a CA (PEM), for one use.
func deriveFromCA(caKey []byte, use string, size int) ([]byte, error) {
	key, err := ParseKey(caKey)
	if err != nil {
		return nil, err
	}
	secret, err := key.Bytes()
	if err != nil {
		return nil, err
	}
	return hkdf.Key(sha256.New, secret, nil, use, size)
}

// vouchesFor reports whether an escrow was written by who held the keys of all of some CAs
// that this host holds, of which there must be one. A host that was a voter may have kept the
// key of a CA that is being replaced; it never had the key of the next one.
func (i *Identity) vouchesFor(e EscrowRecord, cas []Pin) bool {
	vouched := false
	for _, ca := range cas {
		key := i.caKeyOf(ca.String())
		if len(key) == 0 {
			continue
		}
		want, err := e.voucher(i.MeshID(), key)
		if err != nil || !hmac.Equal(want, e.Vouchers[ca.String()]) {
			return false
		}
		vouched = true
	}
	return vouched
}

// caKeyOf returns this host's copy of the private key of a CA, PEM; nil if it holds none.
func (i *Identity) caKeyOf(pin string) []byte {
	ca, err := ParsePin(pin)
	if err != nil {
		return nil
	}
	return i.CAKeyOf(ca)
}

// maxEscrow bounds what is read of an escrow, in bytes.
const maxEscrow = 1 << 20

// WithEscrow returns the bundle with the keys of an escrow as well. It returns the bundle as it
// is if the escrow is for another bundle.
func (b Bundle) WithEscrow(e EscrowRecord) (Bundle, error) {
	opener, err := b.opener()
	if err != nil || opener == nil || opener.Recipient().String() != e.Recipient {
		return b, err
	}
	content, err := age.Decrypt(bytes.NewReader(e.Sealed), opener)
	if err != nil {
		return b, fmt.Errorf("open the escrow of %s: %w", e.Made.Format(time.DateOnly), err)
	}
	var keys escrowed
	if err := json.NewDecoder(io.LimitReader(content, maxEscrow)).Decode(&keys); err != nil {
		return b, fmt.Errorf("read the escrow of %s: %w", e.Made.Format(time.DateOnly), err)
	}
	if keys.MeshID != b.MeshID {
		return b, fmt.Errorf("the escrow of %s is of mesh %s, and the recovery bundle of mesh %s", e.Made.Format(time.DateOnly), keys.MeshID, b.MeshID)
	}
	for _, key := range keys.CAKeys {
		if _, err := ParseKey(key); err != nil {
			return b, fmt.Errorf("read the escrow of %s: %w", e.Made.Format(time.DateOnly), err)
		}
	}
	b.laterCAKeys = append(slices.Clone(b.laterCAKeys), keys.CAKeys...)
	b.SecretKeys = append(slices.Clone(b.SecretKeys), keys.SecretKeys...)
	_, err = b.OpenSecretKeys()
	return b, err
}

// opener returns what opens what is encrypted for the bundle's recipient; nil if it has none.
func (b Bundle) opener() (*age.X25519Identity, error) {
	if b.Recovery == "" {
		return nil, nil
	}
	opener, err := age.ParseX25519Identity(b.Recovery)
	if err != nil {
		return nil, errors.New("read the recovery bundle: what it opens the escrow with is malformed") // the error of age may show it
	}
	return opener, nil
}

// AddRecipient makes the bundle one that also opens what is encrypted for it later.
func (b *Bundle) AddRecipient() error {
	opener, err := age.GenerateX25519Identity()
	if err != nil {
		return fmt.Errorf("make the recipient of the recovery bundle: %w", err)
	}
	b.Recovery = opener.String()
	return nil
}

// Recipient returns for whom later keys are encrypted, so that the bundle opens them; empty for
// a bundle of a version that made none.
func (b Bundle) Recipient() (string, error) {
	opener, err := b.opener()
	if err != nil || opener == nil {
		return "", err
	}
	return opener.Recipient().String(), nil
}

// ValidateRecipient returns an error for a text that is not the recipient of a bundle.
func ValidateRecipient(recipient string) error {
	if _, err := age.ParseX25519Recipient(recipient); err != nil {
		return fmt.Errorf("the recipient of a recovery bundle: %w", err)
	}
	return nil
}
