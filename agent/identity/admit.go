package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/raftstore"
)

// Candidate is a host that asks to become a member.
type Candidate struct {
	TokenID string
	Secret  []byte
	// Key is the public key to certify. The host has proved that it has the private
	// key.
	Key *ecdsa.PublicKey
	// Host is the record to store. Admit fills ID, KeyPin, KeyKept, TokenID and Joined.
	Host HostRecord
}

// Admission is the answer to an admitted host.
type Admission struct {
	Issued
	MeshID     string
	CAKey      []byte // empty if only the voters hold it
	GossipKeys [][]byte
	Members    []HostRecord
}

// admitAttempts bounds how often Admit starts again because the records changed
// meanwhile.
const admitAttempts = 5

// Admit makes a candidate a member. One transaction uses up its token and creates its
// record, so if two candidates have the same token or the same name, exactly one is
// admitted. The same host with the same token and key may repeat the request within
// RetryWindow and gets a new certificate.
func (s *Signer) Admit(ctx context.Context, c Candidate) (Admission, error) {
	pin, err := PinOfKey(c.Key)
	if err != nil {
		return Admission{}, err
	}
	if err := c.Host.Validate(); err != nil {
		return Admission{}, fault.New(fault.Invalid, "%w", err).About(c.Host.Name)
	}
	for range admitAttempts {
		c.Host, err = s.admitOnce(ctx, c, pin)
		var conflict *raftstore.ConflictError
		if !errors.As(err, &conflict) {
			break
		}
	}
	if err != nil {
		return Admission{}, err // not wrapped: the user of the joining host reads this text
	}
	return s.admission(ctx, c)
}

// admitOnce returns the candidate's record once it is a member, and a *ConflictError if
// the records changed after they were read. Every admission is a new membership with
// its own ID. The mesh chooses the ID, so that no machine can claim to be another.
func (s *Signer) admitOnce(ctx context.Context, c Candidate, pin Pin) (HostRecord, error) {
	rec := c.Host
	token, storedToken, err := s.checkToken(ctx, c, pin)
	if err != nil {
		return rec, err
	}
	have, stored, err := NewHosts(s.store).getRecord(ctx, c.Host.Name, raftstore.ReadOptions{})
	switch {
	case err == nil && token.UsedBy != nil && have.TokenID == token.ID && have.KeyPin == pin.String():
		return s.admitAgain(ctx, c, have, stored) // the answer was lost
	case err == nil:
		return rec, fault.New(fault.HostTaken, "host name %s is taken in this mesh", c.Host.Name).About(c.Host.Name)
	case !errors.Is(err, fault.NoHost):
		return rec, err
	case token.UsedBy != nil:
		return rec, fault.TokenUsed // the host that used it was removed since
	}
	if err := s.refuseVotersName(c.Host.Name); err != nil {
		return rec, err
	}
	now := time.Now().UTC()
	token.UsedBy = &TokenUse{Host: c.Host.Name, KeyPin: pin.String(), At: now}
	rec.ID, rec.KeyPin, rec.TokenID, rec.Joined = NewNode(rec.Name).ID, pin.String(), token.ID, now
	rec.KeyKept = s.keepsKeys()
	putToken, err := rewriteOp(storedToken, token)
	if err != nil {
		return rec, err
	}
	putHost, err := putOp(HostKey(rec.Name), rec)
	if err != nil {
		return rec, err
	}
	_, err = s.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: putToken.Key, ModRevision: storedToken.ModRevision}, {Key: putHost.Key}},
		Ops: []raftstore.Op{putToken, putHost, {Key: expelledKey(rec.Name), Delete: true}},
	})
	return rec, err
}

// admitAgain updates the record with what the host reports differently in a repeated
// request, unless the record is the host's own to change: then it does so when it starts.
func (s *Signer) admitAgain(ctx context.Context, c Candidate, have HostRecord, stored raftstore.Record) (HostRecord, error) {
	if s.ownRecords() {
		return have, nil
	}
	rec := c.Host
	rec.ID, rec.KeyPin, rec.KeyKept, rec.TokenID, rec.Joined = have.ID, have.KeyPin, have.KeyKept, have.TokenID, have.Joined
	op, err := rewriteOp(stored, rec)
	if err != nil {
		return rec, err
	}
	_, err = s.store.Commit(ctx, raftstore.Txn{
		If:  []raftstore.Condition{{Key: op.Key, ModRevision: stored.ModRevision}},
		Ops: []raftstore.Op{op},
	})
	if errors.Is(err, raftstore.ErrForbidden) {
		return have, nil // since a moment ago the record is the host's own to change
	}
	return rec, err
}

// KnowsToken reports whether this host's copy of the state has the token with that
// secret. It returns fault.TokenInvalid for a token that cannot be valid anywhere, and
// asks no other host, so that strangers who guess cost little. A token that the copy
// does not have may be new: only Admit can tell.
func (s *Signer) KnowsToken(ctx context.Context, id string, secret []byte) (bool, error) {
	if !ValidTokenID(id) {
		return false, fault.TokenInvalid
	}
	var rec TokenRecord
	_, err := readJSON(ctx, s.store, TokenKey(id), raftstore.ReadOptions{Consistency: raftstore.Local}, &rec)
	if err == nil && !sameSecret(rec.SecretSHA256, secret) {
		return false, fault.TokenInvalid // no token ever gets another secret
	}
	return err == nil, nil
}

// checkToken returns the token of a candidate that may use it, or may repeat its
// request. Only a caller that knows the secret learns what is wrong with a token.
func (s *Signer) checkToken(ctx context.Context, c Candidate, pin Pin) (TokenRecord, raftstore.Record, error) {
	if !ValidTokenID(c.TokenID) {
		return TokenRecord{}, raftstore.Record{}, fault.TokenInvalid
	}
	var rec TokenRecord
	stored, err := readJSON(ctx, s.store, TokenKey(c.TokenID), raftstore.ReadOptions{}, &rec)
	if errors.Is(err, raftstore.ErrNotFound) || err == nil && !sameSecret(rec.SecretSHA256, c.Secret) {
		return TokenRecord{}, raftstore.Record{}, fault.TokenInvalid
	}
	if err != nil {
		return TokenRecord{}, raftstore.Record{}, err
	}
	if err := s.checkTokenCA(ctx, rec); err != nil {
		return TokenRecord{}, raftstore.Record{}, err
	}
	switch used, ended := rec.UsedBy, s.unchanged(rec) > rec.validFor(); {
	case used == nil && ended:
		return TokenRecord{}, raftstore.Record{}, fmt.Errorf("%w at %s", fault.TokenExpired, rec.Expires.Format(time.RFC3339))
	case used != nil && (used.Host != c.Host.Name || used.KeyPin != pin.String()):
		return TokenRecord{}, raftstore.Record{}, fmt.Errorf("%w by host %s", fault.TokenUsed, used.Host)
	case used != nil && ended:
		return TokenRecord{}, raftstore.Record{}, fmt.Errorf("%w by host %s", fault.TokenUsed, used.Host)
	}
	return rec, stored, nil
}

// checkTokenCA refuses an unused token by which a joining host knows a CA that is trusted no more.
// That host has not spoken to one of the mesh's, but to somebody who has the key of that CA.
func (s *Signer) checkTokenCA(ctx context.Context, token TokenRecord) error {
	if token.UsedBy != nil || token.CA == "" {
		return nil
	}
	ca, _, err := readCA(ctx, s.store, raftstore.ReadOptions{})
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(pinsOf(s.trusted(ca)), func(pin Pin) bool { return pin.String() == token.CA }) {
		return fault.TokenInvalid
	}
	return nil
}

// admission signs the certificate of a new member and collects the data that it needs.
func (s *Signer) admission(ctx context.Context, c Candidate) (Admission, error) {
	var rec CARecord
	var gossip GossipRecord
	if _, err := readJSON(ctx, s.store, KeyCA, raftstore.ReadOptions{}, &rec); err != nil {
		return Admission{}, err
	}
	if _, err := readJSON(ctx, s.store, KeyGossip, raftstore.ReadOptions{}, &gossip); err != nil {
		return Admission{}, err
	}
	members, err := NewHosts(s.store).List(ctx, raftstore.ReadOptions{})
	if err != nil {
		return Admission{}, err
	}
	key, err := x509.MarshalPKIXPublicKey(c.Key)
	if err != nil {
		return Admission{}, fmt.Errorf("encode public key: %w", err)
	}
	issued, err := s.SignAdmission(ctx, AdmissionRequest{Host: c.Host.Name, ID: c.Host.ID, Key: key})
	if err != nil {
		return Admission{}, err
	}
	return Admission{
		Issued: issued,
		MeshID: rec.MeshID, CAKey: rec.Key, GossipKeys: gossip.Keys,
		Members: slices.DeleteFunc(members, func(h HostRecord) bool { return h.Name == c.Host.Name }),
	}, nil
}
