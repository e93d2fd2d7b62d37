package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
)

// KeySecretKeys holds the SecretKeysRecord in the replicated store.
const KeySecretKeys = "/mesh/secret-keys"

// fileSecretKeys holds the private keys for Secrets that are in this host's keyring.
const fileSecretKeys = "secret.keys"

// SecretKeysRecord names the pairs of keys that encrypt Secrets. It holds no secret: their
// private keys were never in the replicated state, they are in the keyring of the voters and
// in the recovery bundle.
type SecretKeysRecord struct {
	// Active names the key that encrypts; empty as long as nothing is encrypted.
	Active string `json:"active,omitempty"`
	// Keys are, oldest first, those that may have encrypted something, and then one that
	// becomes the active one when every voter and a recovery bundle have its private key.
	Keys []SecretKeyRecord `json:"keys"`
	// Rotate asks for another key.
	Rotate bool `json:"rotate,omitempty"`
	// Kinds names the kinds that are encrypted besides Secrets, as the leader found them in the
	// MeshConfig. They stand here so that no write can go by what was said before.
	Kinds []string `json:"kinds,omitempty"`
}

// SecretKeyRecord is the public part of a pair of keys.
type SecretKeyRecord struct {
	ID     string    `json:"id"`
	Public []byte    `json:"public"`
	Made   time.Time `json:"made"`
}

// NewSecretKeyRecord returns the public part of a pair of keys that was just made.
func NewSecretKeyRecord(key sealed.PrivateKey) SecretKeyRecord {
	return SecretKeyRecord{ID: key.ID(), Public: key.Public().Bytes(), Made: time.Now().UTC()}
}

// IDs returns the names of the keys.
func (r SecretKeysRecord) IDs() []string {
	ids := make([]string, len(r.Keys))
	for i, key := range r.Keys {
		ids[i] = key.ID
	}
	return ids
}

// Pending returns the name of the key that is not used yet; empty if there is none.
func (r SecretKeysRecord) Pending() string {
	if n := len(r.Keys); n > 0 && r.Keys[n-1].ID != r.Active {
		return r.Keys[n-1].ID
	}
	return ""
}

// InUse returns the names of the keys that may have encrypted something.
func (r SecretKeysRecord) InUse() []string {
	return slices.DeleteFunc(r.IDs(), func(id string) bool { return id == r.Pending() })
}

// Recipient returns the active key; the zero value as long as nothing is encrypted. It fails
// if the record does not hold the key that it names: nothing may be stored in clear then.
func (r SecretKeysRecord) Recipient() (sealed.PublicKey, error) {
	if r.Active == "" {
		return sealed.PublicKey{}, nil
	}
	for _, listed := range r.Keys {
		if listed.ID != r.Active {
			continue
		}
		key, err := sealed.ParsePublicKey(listed.Public)
		if err == nil && key.ID() == r.Active {
			return key, nil
		}
	}
	return sealed.PublicKey{}, fault.New(fault.Unavailable, "%s names the active key %s and does not hold it", KeySecretKeys, r.Active).
		WithRemedy("the leader sets this right within a minute if a recovery bundle has the newest key of the record; make one otherwise: 'virtmesh keyring bundle --output FILE'")
}

// ParseSecretKeys returns what the record at KeySecretKeys says.
func ParseSecretKeys(record []byte) (SecretKeysRecord, error) {
	var keys SecretKeysRecord
	if err := json.Unmarshal(record, &keys); err != nil {
		return keys, fmt.Errorf("read %s: %w", KeySecretKeys, err)
	}
	return keys, nil
}

// ReadSecretKeys reads the keys for Secrets and the revision of their record. Both are zero as
// long as there is none.
func ReadSecretKeys(ctx context.Context, store Store, opts raftstore.ReadOptions) (SecretKeysRecord, raftstore.Record, error) {
	var keys SecretKeysRecord
	stored, err := readJSON(ctx, store, KeySecretKeys, opts, &keys)
	if errors.Is(err, raftstore.ErrNotFound) {
		return SecretKeysRecord{}, raftstore.Record{Key: KeySecretKeys}, nil
	}
	return keys, stored, err
}

// StoreSecretKeys replaces the record of the keys for Secrets as it was read, if some further
// conditions hold.
func StoreSecretKeys(ctx context.Context, store Store, stored raftstore.Record, keys SecretKeysRecord, also ...raftstore.Condition) error {
	op, err := putOp(stored.Key, keys)
	if stored.ModRevision != 0 {
		op, err = rewriteOp(stored, keys)
	}
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: append([]raftstore.Condition{{Key: stored.Key, ModRevision: stored.ModRevision}}, also...), Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("store the keys for Secrets: %w", err)
	}
	return nil
}

// MayAskForSecretKey returns raftstore.ErrForbidden unless a change only asks for another key for
// Secrets, which any host may do for an administrator. What else the record says is the voters' to
// change: by it every host encrypts. Any other error says that this copy of the state cannot tell
// yet. It does not block, and its answer holds when the change is judged.
func MayAskForSecretKey(store Store, from string, txn raftstore.Txn, op raftstore.Op) error {
	rec, _, err := change{from: from, txn: txn, store: store}.judgedBy(KeySecretKeys)
	if errors.Is(err, errOutdated) {
		return nil // it is refused, or known as one that was made
	}
	if err != nil {
		return err
	}
	var have, next map[string]any
	if op.Delete || json.Unmarshal(rec.Value, &have) != nil || json.Unmarshal(op.Value, &next) != nil || next["rotate"] != true {
		return forbidden(KeySecretKeys, "a host that does not vote can ask for another key only")
	}
	delete(have, "rotate")
	delete(next, "rotate")
	if !reflect.DeepEqual(have, next) {
		return forbidden(KeySecretKeys, "a host that does not vote can ask for another key only")
	}
	return nil
}

// SecretKey returns a private key for Secrets that this host holds.
func (i *Identity) SecretKey(id string) (sealed.PrivateKey, bool) {
	for _, key := range i.SecretKeys() {
		if key.ID() == id {
			return key, true
		}
	}
	return sealed.PrivateKey{}, false
}

// SecretKeys returns the private keys for Secrets that this host holds. The caller must not
// change the slice.
func (i *Identity) SecretKeys() []sealed.PrivateKey {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.secretKeys
}

// SecretKeyIDs returns the names of the private keys for Secrets that this host holds.
func (i *Identity) SecretKeyIDs() []string {
	return secretKeyIDs(i.SecretKeys())
}

func secretKeyIDs(keys []sealed.PrivateKey) []string {
	var ids []string
	for _, key := range keys {
		ids = append(ids, key.ID())
	}
	return ids
}

// KeepSecretKeys adds private keys for Secrets to the keyring of this host, on disk and in
// memory.
func (i *Identity) KeepSecretKeys(keys ...sealed.PrivateKey) error {
	i.beginToWrite()
	i.mu.Lock()
	defer i.mu.Unlock()
	all := withSecretKeys(i.secretKeys, keys)
	if len(all) == len(i.secretKeys) {
		return nil
	}
	return i.replaceSecretKeys(all, false)
}

// withSecretKeys returns some keys and those of more that are not among them.
func withSecretKeys(keys, more []sealed.PrivateKey) []sealed.PrivateKey {
	all := slices.Clone(keys)
	for _, key := range more {
		if !slices.ContainsFunc(all, func(have sealed.PrivateKey) bool { return have.ID() == key.ID() }) {
			all = append(all, key)
		}
	}
	return all
}

// RetainSecretKeys deletes all private keys for Secrets from the keyring of this host but the
// named ones, and, if it holds all of these, what it cannot open and what was put aside. The
// caller makes sure that the others are not needed here.
func (i *Identity) RetainSecretKeys(ids ...string) error {
	i.beginToWrite()
	i.mu.Lock()
	defer i.mu.Unlock()
	left := slices.DeleteFunc(slices.Clone(i.secretKeys), func(key sealed.PrivateKey) bool {
		return !slices.Contains(ids, key.ID())
	})
	held := secretKeyIDs(left)
	ends := !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(held, id) })
	if len(left) == len(i.secretKeys) && !(ends && i.secretFiles.leftOver(fileSecretKeys)) {
		return nil
	}
	return i.replaceSecretKeys(left, ends)
}

// replaceSecretKeys is called with i.mu held. ends is as in secretFiles.write.
func (i *Identity) replaceSecretKeys(keys []sealed.PrivateKey, ends bool) error {
	text, err := encodeSecretKeys(keys)
	if err != nil {
		return fmt.Errorf("keep the keys for Secrets: %w", err)
	}
	i.sealed = i.sealed && !ends // sealing keys may have nothing left to open
	if err := i.secretFiles.write(fileSecretKeys, text, ends); err != nil {
		return fmt.Errorf("keep the keys for Secrets: %w", err)
	}
	i.secretKeys = keys
	return nil
}

func encodeSecretKeys(keys []sealed.PrivateKey) ([]byte, error) {
	var b strings.Builder
	for _, key := range keys {
		data, err := key.Bytes()
		if err != nil {
			return nil, err
		}
		b.WriteString(base64.StdEncoding.EncodeToString(data) + "\n")
	}
	return []byte(b.String()), nil
}

func parseSecretKeys(text string) ([]sealed.PrivateKey, error) {
	var keys []sealed.PrivateKey
	for line := range strings.FieldsSeq(text) {
		data, err := base64.StdEncoding.DecodeString(line)
		if err != nil {
			return nil, errors.New("a key for Secrets is not base64")
		}
		key, err := sealed.ParsePrivateKey(data)
		if err != nil {
			return nil, err
		}
		keys = withSecretKeys(keys, []sealed.PrivateKey{key})
	}
	return keys, nil
}
