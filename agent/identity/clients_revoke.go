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

// Revoke ends certificates: all of a person by the user's name, or one by the hash of its key
// or at least 8 digits of its beginning; and with each, those that were renewed from it. It
// returns those that it ended. A whole hash may be that of a certificate without a record.
// Every host refuses them as soon as it has the change.
func (c *Clients) Revoke(ctx context.Context, which, by string) ([]ClientRecord, error) {
	var conflict *raftstore.ConflictError
	for attempt := 1; ; attempt++ {
		revoked, err := c.revokeOnce(ctx, which, Revocation{By: by, At: time.Now().UTC()})
		if !errors.As(err, &conflict) || attempt == admitAttempts {
			return revoked, err
		}
	}
}

func (c *Clients) revokeOnce(ctx context.Context, which string, mark Revocation) ([]ClientRecord, error) {
	recs, stored, err := c.list(ctx)
	if err != nil {
		return nil, err
	}
	chosen, err := chooseClients(recs, which)
	if err != nil {
		return nil, err
	}
	var txn raftstore.Txn
	var revoked []ClientRecord
	for i, rec := range recs {
		if !chosen[rec.KeyHash] || rec.Revoked != nil {
			continue
		}
		rec.Revoked = &mark
		op, err := rewriteOp(stored[i], rec)
		if err != nil {
			return nil, err
		}
		txn.If = append(txn.If, raftstore.Condition{Key: op.Key, ModRevision: stored[i].ModRevision})
		txn.Ops = append(txn.Ops, op)
		revoked = append(revoked, rec)
	}
	if len(chosen) == 0 { // a whole hash that no record has
		rec := ClientRecord{KeyHash: which, User: "unlisted", Issued: mark.At, FirstIssued: mark.At, Expires: mark.At.Add(unlistedLifetime), Revoked: &mark}
		op, err := putOp(clientKey(which), rec)
		if err != nil {
			return nil, err
		}
		txn.If, txn.Ops, revoked = []raftstore.Condition{{Key: op.Key}}, []raftstore.Op{op}, []ClientRecord{rec}
	}
	if len(revoked) == 0 {
		return nil, nil // all were revoked before
	}
	if _, err := c.store.Commit(ctx, txn); err != nil {
		return nil, fmt.Errorf("revoke client certificates: %w", err)
	}
	return revoked, nil
}

// chooseClients returns the hashes of the certificates that which names, and of all that were
// renewed from them; none if it is a whole hash that no record has.
func chooseClients(recs []ClientRecord, which string) (map[string]bool, error) {
	chosen := map[string]bool{}
	for _, rec := range recs {
		if rec.User == which {
			chosen[rec.KeyHash] = true
		}
	}
	if len(chosen) == 0 && hashPattern.MatchString(which) {
		for _, rec := range recs {
			if strings.HasPrefix(rec.KeyHash, which) {
				chosen[rec.KeyHash] = true
			}
		}
		if len(chosen) > 1 {
			return nil, fault.InField("certificate", "%s is the beginning of more than one hash; give more of it", which)
		}
		if len(chosen) == 0 && len(which) == 2*len(Pin{}) {
			return chosen, nil
		}
	}
	if len(chosen) == 0 {
		return nil, fault.New(fault.NotFound, "no certificate is of a user %q, or has a key whose hash begins so", hostname.Clip(which)).WithRemedy("'virtmesh cert ls' lists them")
	}
	for grown := true; grown; {
		grown = false
		for _, rec := range recs {
			if chosen[rec.RenewedFrom] && !chosen[rec.KeyHash] {
				chosen[rec.KeyHash], grown = true, true
			}
		}
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
