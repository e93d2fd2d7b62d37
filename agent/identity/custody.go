package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/raftstore"
)

// BundlesRecord says which recovery bundles were made. It holds no secret.
type BundlesRecord struct {
	// Last is the newest bundle that was written completely.
	Last BundleMade `json:"last"`
}

// BundleMade is a recovery bundle that was made.
type BundleMade struct {
	// CAPin is the pin of the CA whose key is in the bundle.
	CAPin string    `json:"caPin"`
	Made  time.Time `json:"made"`
	// Host is the host that made the bundle.
	Host string `json:"host"`
	// SecretKeys names the keys for Secrets that are in the bundle.
	SecretKeys []string `json:"secretKeys,omitempty"`
	// BackupRecipient is for whom backups are encrypted, so that the bundle opens them; empty
	// if they are not, which needs feature level level.Apart.
	BackupRecipient string `json:"backupRecipient,omitempty"`
	// Recipient is for whom later keys are put into escrow (age, X25519): what opens that is in
	// the bundle and nowhere else. Empty: the bundle is of a version that made none, and later
	// keys need another bundle.
	Recipient string `json:"recipient,omitempty"`
	// Number is one higher for each bundle, so that voters do not go back to an older one; 0 for
	// bundles of a version that did not count them.
	Number uint64 `json:"number,omitempty"`
}

// HasSecretKeys reports whether the bundle has the keys for Secrets of some names.
func (b *BundleMade) HasSecretKeys(ids []string) bool {
	return len(ids) == 0 || b != nil && !slices.ContainsFunc(ids, func(id string) bool { return !slices.Contains(b.SecretKeys, id) })
}

// Custody says where the key of the mesh's CA is, as the replicated state has it.
type Custody struct {
	// CA is the pin of the CA that signs.
	CA Pin
	// InUse are the pins of the CAs whose keys the mesh needs: CA, and while that is replaced
	// the next one.
	InUse []Pin
	// Key is the key, PEM, if it is in the replicated state, and so on every host and in
	// every backup. It is empty once only the voters' keyring holds it.
	Key []byte
	// Bundle is the newest recovery bundle; nil if none was made.
	Bundle *BundleMade
	// Escrow has the keys that the bundle opens besides its own; nil if there is none.
	Escrow *EscrowRecord
}

// InState reports whether the key is in the replicated state.
func (c Custody) InState() bool { return len(c.Key) > 0 }

// Bundled reports whether a recovery bundle of the CA that signs was made.
func (c Custody) Bundled() bool { return c.Bundle != nil && c.Bundle.CAPin == c.CA.String() }

// Recoverable reports whether the newest recovery bundle gives back the key of a CA: the
// bundle has it, or the escrow of the bundle's recipient. Any host can write what this is read
// from; a voter asks Identity.Judge first, and so decides by what its keyring vouches for.
func (c Custody) Recoverable(ca Pin) bool {
	return c.Recovers(Holds{CAPins: []string{ca.String()}})
}

// RecoversSecretKeys reports the same of the keys for Secrets of some names.
func (c Custody) RecoversSecretKeys(ids []string) bool {
	return !slices.ContainsFunc(ids, func(id string) bool {
		return !c.Bundle.HasSecretKeys([]string{id}) && !c.escrow().HasSecretKeys(id)
	})
}

// Recovers reports whether the newest recovery bundle gives back all of some keys.
func (c Custody) Recovers(keys Holds) bool {
	if c.Bundle == nil {
		return false
	}
	for _, pin := range keys.CAPins {
		if c.Bundle.CAPin != pin && !slices.Contains(c.escrow().CAPins, pin) {
			return false
		}
	}
	return c.RecoversSecretKeys(keys.SecretKeyIDs)
}

// escrow returns what the escrow of the newest bundle holds.
func (c Custody) escrow() Holds {
	if c.Bundle == nil || c.Escrow == nil || c.Bundle.Recipient == "" || c.Escrow.Recipient != c.Bundle.Recipient {
		return Holds{}
	}
	return c.Escrow.Holds
}

// ReadCustody reads where the key of the mesh's CA is. It returns ErrNotSeeded as long as
// the store does not hold the CA.
func ReadCustody(ctx context.Context, store Store, opts raftstore.ReadOptions) (Custody, error) {
	rec, _, err := readCA(ctx, store, opts)
	if err != nil {
		return Custody{}, err
	}
	pin, err := rec.pin()
	if err != nil {
		return Custody{}, err
	}
	c := Custody{CA: pin, InUse: rec.InUse(), Key: rec.Key}
	var bundles BundlesRecord
	switch _, err := readJSON(ctx, store, KeyBundles, opts, &bundles); {
	case err == nil:
		c.Bundle = &bundles.Last
	case !errors.Is(err, raftstore.ErrNotFound):
		return Custody{}, err
	}
	escrow, _, err := ReadEscrow(ctx, store, opts)
	c.Escrow = escrow
	return c, err
}

// CAPin returns the pin of the mesh's CA, linearizably, or ErrNotSeeded.
func CAPin(ctx context.Context, store Store) (Pin, error) {
	rec, _, err := readCA(ctx, store, raftstore.ReadOptions{})
	if err != nil {
		return Pin{}, err
	}
	return rec.pin()
}

// RecordBundle stores that a recovery bundle was made.
func RecordBundle(ctx context.Context, store Store, made BundleMade) error {
	op, err := putOp(KeyBundles, BundlesRecord{Last: made})
	if err != nil {
		return err
	}
	if _, err := store.Commit(ctx, raftstore.Txn{Ops: []raftstore.Op{op}}); err != nil {
		return fmt.Errorf("record the recovery bundle: %w", err)
	}
	return nil
}

// ParseBundles returns what the record at KeyBundles says.
func ParseBundles(record []byte) (BundlesRecord, error) {
	var bundles BundlesRecord
	if err := json.Unmarshal(record, &bundles); err != nil {
		return bundles, fmt.Errorf("read %s: %w", KeyBundles, err)
	}
	return bundles, nil
}

// maxNotedNumber bounds which numbers of bundles count that only the state has.
const maxNotedNumber = 1 << 32

// RecordNewBundle stores that a recovery bundle was just made on this host, and puts the note
// into its keyring. It gives the note the number after that of the newest one before.
func (i *Identity) RecordNewBundle(ctx context.Context, store Store, made BundleMade) error {
	custody, err := ReadCustody(ctx, store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	made.Number = 1
	if known := i.KnownBundle(); known != nil {
		made.Number = known.Number + 1
	}
	// Any host can write the note in the state, also one with the highest number there is.
	if noted := custody.Bundle; noted != nil && noted.Number < maxNotedNumber {
		made.Number = max(made.Number, noted.Number+1)
	}
	if err := RecordBundle(ctx, store, made); err != nil {
		return err
	}
	return i.KnowBundle(made)
}

// AmendBundle adds to the note of the newest recovery bundle. It does nothing if there is a
// note of another one now.
func AmendBundle(ctx context.Context, store Store, made BundleMade) error {
	var bundles BundlesRecord
	stored, err := readJSON(ctx, store, KeyBundles, raftstore.ReadOptions{}, &bundles)
	if err != nil {
		return err
	}
	if bundles.Last.CAPin != made.CAPin || !bundles.Last.Made.Equal(made.Made) {
		return nil
	}
	op, err := rewriteOp(stored, BundlesRecord{Last: made})
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: []raftstore.Condition{{Key: KeyBundles, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("amend the note of the recovery bundle: %w", err)
	}
	return nil
}

// WithdrawCAKey deletes the key of the CA from the replicated state. It does nothing if the
// state does not hold the key, and refuses if no recovery bundle of that CA was made, because
// the loss of the voters would then be the loss of the key. The caller makes sure that every
// voter holds the key. What was written before still holds it: older backups, snapshots and
// entries of the log.
func WithdrawCAKey(ctx context.Context, store Store) error {
	c, err := ReadCustody(ctx, store, raftstore.ReadOptions{})
	if err != nil || !c.InState() {
		return err
	}
	if !c.Bundled() {
		return errors.New("withdraw the key of the CA: there is no recovery bundle")
	}
	rec, stored, err := readCA(ctx, store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if now, err := rec.pin(); err != nil || now != c.CA {
		return errors.Join(err, errors.New("withdraw the key of the CA: the CA has just changed"))
	}
	rec.Key = nil
	op, err := rewriteOp(stored, rec)
	if err != nil {
		return err
	}
	_, err = store.Commit(ctx, raftstore.Txn{
		If: []raftstore.Condition{{Key: KeyCA, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op},
	})
	if err != nil {
		return fmt.Errorf("withdraw the key of the CA: %w", err)
	}
	return nil
}

// pin returns the pin of the CA that signs.
func (r *CARecord) pin() (Pin, error) {
	certs, err := ParseCertificates(r.Certificate)
	if err != nil {
		return Pin{}, fmt.Errorf("read %s: %w", KeyCA, err)
	}
	return PinOf(certs[0]), nil
}

func readCA(ctx context.Context, store Store, opts raftstore.ReadOptions) (CARecord, raftstore.Record, error) {
	var rec CARecord
	stored, err := readJSON(ctx, store, KeyCA, opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		err = ErrNotSeeded
	}
	return rec, stored, err
}
