package identity

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

// hashPattern is what can name a certificate by its key: the hash, or enough of its beginning.
var hashPattern = regexp.MustCompile(`^[0-9a-f]{8,64}$`)

// revokedAtOnce is how many chains one transaction revokes, far below raftstore.MaxTxnOps.
const revokedAtOnce = 256

// Revoke ends certificates: all of a person by the user's name, or one by the hash of its key
// or at least 8 digits of its beginning; and with each, its whole chain: what it was renewed
// from, and what was or will be renewed from that. It returns those that it ended, and may have
// ended some when it returns an error. A whole hash may be that of a certificate without a
// record, in a mesh that takes such. Whose a certificate is whose record is Unreadable nobody
// knows: it is ended by its hash alone, and its record replaced. Every host refuses them as soon
// as it has the change.
func (c *Clients) Revoke(ctx context.Context, which, by string) ([]ClientRecord, error) {
	for attempt := 1; ; attempt++ {
		revoked, err := c.revokeChains(ctx, by, func(recs []ClientRecord) (map[string]bool, error) { return chooseChains(recs, which) })
		if !errors.Is(err, errUnlistedChosen) {
			return revoked, err
		}
		revoked, err = c.revokeUnlisted(ctx, which, Revocation{By: by, At: time.Now().UTC()})
		var listed *raftstore.ConflictError
		if !errors.As(err, &listed) || attempt == admitAttempts {
			return revoked, err
		}
	}
}

// revokeChains ends the chains that choose returns, in the name of by.
func (c *Clients) revokeChains(ctx context.Context, by string, choose func([]ClientRecord) (map[string]bool, error)) ([]ClientRecord, error) {
	var revoked []ClientRecord
	for conflicts := 0; ; {
		ended, more, err := c.revokeOnce(ctx, choose, Revocation{By: by, At: time.Now().UTC()})
		var conflict *raftstore.ConflictError
		if errors.As(err, &conflict) && conflicts < admitAttempts {
			conflicts++
			continue
		}
		revoked = append(revoked, ended...)
		if err != nil || !more {
			return revoked, err
		}
	}
}

// revokeOnce revokes so many chains as fit into one transaction, and reports whether there may
// be more.
func (c *Clients) revokeOnce(ctx context.Context, choose func([]ClientRecord) (map[string]bool, error), mark Revocation) (revoked []ClientRecord, more bool, err error) {
	recs, stored, err := c.list(ctx)
	if err != nil {
		return nil, false, err
	}
	chosen, err := choose(recs)
	if err != nil {
		return nil, false, err
	}
	var txn raftstore.Txn
	marked := map[string]bool{}
	for i, rec := range recs {
		if !rec.first() || !chosen[rec.KeyHash] || rec.Revoked != nil || len(txn.Ops) == revokedAtOnce {
			continue
		}
		op, err := revocationOp(stored[i], rec, mark)
		if err != nil {
			return nil, false, err
		}
		txn.If = append(txn.If, raftstore.Condition{Key: op.Key, ModRevision: stored[i].ModRevision})
		txn.Ops = append(txn.Ops, op)
		marked[rec.KeyHash] = true
	}
	if len(txn.Ops) == 0 {
		return nil, false, nil // all were revoked before
	}
	if _, err := c.store.Commit(ctx, txn); err != nil {
		return nil, false, fmt.Errorf("revoke client certificates: %w", err)
	}
	for _, rec := range recs {
		if marked[rec.chain()] && rec.Revoked == nil && (rec.first() || rec.Expires.After(mark.At)) {
			if rec.Unreadable != nil {
				why := rec.Unreadable
				rec = unlistedRecord(rec.KeyHash, mark)
				rec.Unreadable = why
			}
			rec.Revoked = &mark
			revoked = append(revoked, rec)
		}
	}
	return revoked, len(txn.Ops) == revokedAtOnce, nil
}

// revocationOp returns the op that marks a record as revoked. One that cannot be read is replaced
// by that of a certificate of which no more is known than its key.
func revocationOp(stored raftstore.Record, rec ClientRecord, mark Revocation) (raftstore.Op, error) {
	if rec.Unreadable != nil {
		return putOp(stored.Key, unlistedRecord(rec.KeyHash, mark))
	}
	rec.Revoked = &mark
	return rewriteOp(stored, rec)
}

// unlistedRecord returns the record that keeps a certificate refused of which no more is known than
// the hash of its key.
func unlistedRecord(keyHash string, mark Revocation) ClientRecord {
	return ClientRecord{
		KeyHash: keyHash, User: "unlisted", Unlisted: true,
		Issued: mark.At, FirstIssued: mark.At, Expires: mark.At.Add(unlistedLifetime), Revoked: &mark,
	}
}

// revokeUnlisted revokes the certificate with a key of which there is no record.
func (c *Clients) revokeUnlisted(ctx context.Context, keyHash string, mark Revocation) ([]ClientRecord, error) {
	only, err := c.ListedOnly(ctx, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	if only {
		return nil, noSuchClient(keyHash)
	}
	rec := unlistedRecord(keyHash, mark)
	op, err := putOp(clientKey(keyHash), rec)
	if err != nil {
		return nil, err
	}
	if _, err := c.store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: op.Key}}, Ops: []raftstore.Op{op}}); err != nil {
		return nil, fmt.Errorf("revoke client certificates: %w", err)
	}
	return []ClientRecord{rec}, nil
}

func noSuchClient(which string) error {
	return fault.New(fault.NotFound, "no certificate is of a user %q, or has a key whose hash begins so", hostname.Clip(which)).WithRemedy("'virtmesh cert ls' lists them")
}

// errUnlistedChosen says that a whole hash was named which no record has.
var errUnlistedChosen = errors.New("no certificate with this key is listed")

// chooseChains returns the chains of the certificates that which names, or errUnlistedChosen.
func chooseChains(recs []ClientRecord, which string) (map[string]bool, error) {
	chosen := map[string]bool{}
	for _, rec := range recs {
		if rec.User == which && !rec.Unlisted {
			chosen[rec.chain()] = true
		}
	}
	if len(chosen) > 0 {
		return chosen, nil
	}
	if !hashPattern.MatchString(which) {
		return nil, noSuchClient(which)
	}
	found := 0
	for _, rec := range recs {
		if strings.HasPrefix(rec.KeyHash, which) {
			chosen[rec.chain()] = true
			found++
		}
	}
	switch {
	case found > 1:
		return nil, fault.InField("certificate", "%s is the beginning of more than one hash; give more of it", which)
	case found == 0 && len(which) < 2*len(Pin{}):
		return nil, noSuchClient(which)
	case found == 0:
		return nil, errUnlistedChosen
	}
	return chosen, nil
}

// RefuseUnlisted ends every certificate of a person that has no record, for good: those that
// versions without records signed, and those that somebody signs who has the CA's key. It may
// be called again.
func (c *Clients) RefuseUnlisted(ctx context.Context, by string) error {
	op, err := putOp(KeyListedOnly, ListedOnly{By: by, At: time.Now().UTC()})
	if err != nil {
		return err
	}
	_, err = c.store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: op.Key}}, Ops: []raftstore.Op{op}})
	var done *raftstore.ConflictError
	if err != nil && !errors.As(err, &done) {
		return fmt.Errorf("refuse certificates that are not listed: %w", err)
	}
	return nil
}
