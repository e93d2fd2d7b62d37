package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

const (
	// DefaultTokenTTL is how long a token can be used.
	DefaultTokenTTL = time.Hour
	// MaxTokenTTL is the longest time a token can be given.
	MaxTokenTTL = 30 * 24 * time.Hour
	// RetryWindow is how long after its use a token still admits the same host with the
	// same key, so that the host can repeat a request whose answer was lost.
	RetryWindow = 15 * time.Minute
)

// TokenUse says who used a token.
type TokenUse struct {
	Host   string    `json:"host"`
	KeyPin string    `json:"keyPin"`
	At     time.Time `json:"at"`
}

// TokenRecord is a token as it is stored. It does not hold the secret.
type TokenRecord struct {
	ID string `json:"id"`
	// SecretSHA256 is the hash of the secret.
	SecretSHA256 []byte    `json:"secretSHA256"`
	Created      time.Time `json:"created"`
	Expires      time.Time `json:"expires"`
	// CA is the pin of the CA by which the joining host knows the mesh; empty in records of
	// versions before level.Succession.
	CA string `json:"ca,omitempty"`
	// UsedBy is nil until a host has joined with the token.
	UsedBy *TokenUse `json:"usedBy,omitempty"`
}

// Changed returns when the record was last changed, by the clock of the host that did it.
func (r TokenRecord) Changed() time.Time {
	if r.UsedBy != nil {
		return r.UsedBy.At
	}
	return r.Created
}

// validFor returns how long the token can be used as it is: for as long as it was made for, or,
// once it is used, to repeat the request.
func (r TokenRecord) validFor() time.Duration {
	if r.UsedBy != nil {
		return RetryWindow
	}
	return r.Expires.Sub(r.Created)
}

// stampedAge is how long a token has been as it is, by the times in its record.
func stampedAge(r TokenRecord) time.Duration { return time.Since(r.Changed()) }

// Tokens are the join tokens of a mesh. Each admits one host.
type Tokens struct{ store Store }

// NewTokens returns the tokens in a store.
func NewTokens(store Store) *Tokens {
	return &Tokens{store: store}
}

// Create makes a token that can be used for ttl; zero stands for DefaultTokenTTL. Only
// the returned token holds the secret.
func (t *Tokens) Create(ctx context.Context, ttl time.Duration) (Token, TokenRecord, error) {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if ttl < 0 || ttl > MaxTokenTTL {
		return Token{}, TokenRecord{}, fmt.Errorf("create token: the lifetime %s is not between 0 and %s", ttl, MaxTokenTTL)
	}
	pin, err := CAPin(ctx, t.store)
	if err != nil {
		return Token{}, TokenRecord{}, fmt.Errorf("create token: %w", err)
	}
	token := NewToken(pin)
	hash := hashSecret(token.Secret[:])
	now := time.Now().UTC()
	rec := TokenRecord{ID: token.ID, SecretSHA256: hash[:], Created: now, Expires: now.Add(ttl), CA: pin.String()}
	op, err := putOp(TokenKey(rec.ID), rec)
	if err != nil {
		return Token{}, TokenRecord{}, err
	}
	_, err = t.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: op.Key}},
		Ops: []raftstore.Op{op},
	})
	if err != nil {
		return Token{}, TokenRecord{}, fmt.Errorf("create token: %w", err)
	}
	return token, rec, nil
}

// List returns all tokens in the order of their IDs, including used and expired ones.
func (t *Tokens) List(ctx context.Context) ([]TokenRecord, error) {
	recs, _, err := t.list(ctx, raftstore.ReadOptions{})
	return recs, err
}

// ListLocal returns the tokens that this host's copy of the state has.
func (t *Tokens) ListLocal(ctx context.Context) ([]TokenRecord, error) {
	recs, _, err := t.list(ctx, raftstore.ReadOptions{Consistency: raftstore.Local})
	return recs, err
}

func (t *Tokens) list(ctx context.Context, opts raftstore.ReadOptions) ([]TokenRecord, []uint64, error) {
	res, err := t.store.List(ctx, raftstore.ListRequest{Prefix: TokensPrefix, ReadOptions: opts})
	if err != nil {
		return nil, nil, fmt.Errorf("list tokens: %w", err)
	}
	recs, revs := make([]TokenRecord, 0, len(res.Records)), make([]uint64, 0, len(res.Records))
	for _, r := range res.Records {
		var rec TokenRecord
		if err := json.Unmarshal(r.Value, &rec); err != nil {
			return nil, nil, fmt.Errorf("list tokens: %s: %w", r.Key, err)
		}
		recs, revs = append(recs, rec), append(revs, r.ModRevision)
	}
	return recs, revs, nil
}

// Revoke deletes a token; fault.TokenInvalid if there is none. A host that has joined with
// it stays a member.
func (t *Tokens) Revoke(ctx context.Context, id string) error {
	if !ValidTokenID(id) {
		return fmt.Errorf("revoke token %q: %w", hostname.Clip(id), fault.TokenInvalid)
	}
	rec, _, err := t.store.Get(ctx, TokenKey(id), raftstore.ReadOptions{})
	if errors.Is(err, raftstore.ErrNotFound) {
		return fmt.Errorf("revoke token %s: %w", id, fault.TokenInvalid)
	}
	if err == nil {
		err = t.deleteToken(ctx, id, rec.ModRevision)
	}
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	return nil
}

// RevokeOthers deletes the unused tokens by which no joining host would know the CA with a pin, and
// returns their IDs: who has such a token can use it only with a host that shows the CA of before,
// which is whoever has taken that CA's key.
func (t *Tokens) RevokeOthers(ctx context.Context, ca Pin) (revoked []string, err error) {
	recs, revs, err := t.list(ctx, raftstore.ReadOptions{})
	if err != nil {
		return nil, err
	}
	for i, rec := range recs {
		if rec.UsedBy != nil || rec.CA == ca.String() {
			continue
		}
		var changed *raftstore.ConflictError // it was used or revoked meanwhile
		err := t.deleteToken(ctx, rec.ID, revs[i])
		if err != nil && !errors.As(err, &changed) {
			return revoked, fmt.Errorf("revoke token %s: %w", rec.ID, err)
		}
		if err == nil {
			revoked = append(revoked, rec.ID)
		}
	}
	return revoked, nil
}

// Prune deletes the tokens that can no longer be used, not even to repeat a request,
// and returns how many it deleted. unchanged says for how long a token has been as it is; nil
// compares the times in the record with the clock of this host. One host of the mesh calls it
// periodically.
func (t *Tokens) Prune(ctx context.Context, unchanged func(TokenRecord) time.Duration) (int, error) {
	if unchanged == nil {
		unchanged = stampedAge
	}
	recs, revs, err := t.list(ctx, raftstore.ReadOptions{})
	if err != nil {
		return 0, err
	}
	var pruned int
	for i, rec := range recs {
		grace := RetryWindow
		if rec.UsedBy != nil {
			grace = 0 // the window is all that is left of it
		}
		if unchanged(rec) < rec.validFor()+grace {
			continue
		}
		var changed *raftstore.ConflictError
		err := t.deleteToken(ctx, rec.ID, revs[i])
		if err != nil && !errors.As(err, &changed) {
			return pruned, fmt.Errorf("prune tokens: %w", err)
		}
		if err == nil {
			pruned++
		}
	}
	return pruned, nil
}

func (t *Tokens) deleteToken(ctx context.Context, id string, rev uint64) error {
	_, err := t.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: TokenKey(id), ModRevision: rev}},
		Ops: []raftstore.Op{{Key: TokenKey(id), Delete: true}},
	})
	return err
}
