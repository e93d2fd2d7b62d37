package identity

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"regexp"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

// ClientRequest asks for the certificate of an administrator.
type ClientRequest struct {
	// Key is the key to certify; the caller has proved that he has the private one.
	Key *ecdsa.PublicKey
	// User is the name of the person; empty stands for that of From, or for AdminName.
	User string
	// TTL is how long the certificate shall be valid, at most MaxAdminLifetime; zero stands
	// for DefaultAdminLifetime.
	TTL time.Duration
	// Host is this host's name.
	Host string
	// From is the hash of the key of the certificate by which the mesh knows who asks; empty
	// if root on this host asks.
	From string
}

// userPattern is which names people can have. It has no colon, as the names of the system
// and of hosts do.
var userPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

func validUser(user string) bool { return user == AdminName || userPattern.MatchString(user) }

// IssueAdministrator stores the record of a certificate of an administrator, without which no
// host would sign or take it, and has it signed. It returns the certificate as PEM, and the bundle of CAs to
// trust. Who has a certificate gets further ones for himself alone, and not for longer than
// MaxAdminLifetime after root had the first one signed.
func (s *Signer) IssueAdministrator(ctx context.Context, request ClientRequest) (cert, bundle []byte, rec ClientRecord, err error) {
	pin, err := PinOfKey(request.Key)
	if err != nil {
		return nil, nil, rec, err
	}
	signing, err := NewClientSigning(request.Key)
	if err != nil {
		return nil, nil, rec, err
	}
	clients := NewClients(s.store)
	rec, conditions, err := clients.newRecord(ctx, request)
	if err != nil {
		return nil, nil, rec, err
	}
	rec.KeyHash = KeyHash(pin)
	op, err := putOp(clientKey(rec.KeyHash), rec)
	if err != nil {
		return nil, nil, rec, err
	}
	_, err = s.store.Commit(ctx, raftstore.Txn{If: append(conditions, raftstore.Condition{Key: op.Key}), Ops: []raftstore.Op{op}})
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return nil, nil, rec, fault.New(fault.Conflict, "the certificate that asks for another was changed meanwhile, or this key has one already").WithRemedy("try again")
	}
	if err != nil {
		return nil, nil, rec, fmt.Errorf("list the certificate of %s: %w", rec.User, err)
	}
	issued, err := s.SignClient(ctx, signing)
	if err != nil {
		clients.abandon(ctx, rec)
		return nil, nil, rec, fmt.Errorf("sign the certificate of %s: %w", rec.User, err)
	}
	return issued.Chain, issued.CABundle, rec, nil
}

// abandon revokes the record of a certificate that was not handed out, so that it is not listed
// as valid. One that it cannot revoke does no harm: nobody has the certificate.
func (c *Clients) abandon(ctx context.Context, rec ClientRecord) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), defaultPatience)
	defer cancel()
	have, stored, err := c.readRecord(ctx, rec.KeyHash, raftstore.ReadOptions{})
	if err != nil || have.Revoked != nil {
		return
	}
	have.Revoked = &Revocation{By: rec.Host, At: time.Now().UTC()}
	op, err := rewriteOp(stored, have)
	if err != nil {
		return
	}
	_, _ = c.store.Commit(ctx, raftstore.Txn{If: []raftstore.Condition{{Key: op.Key, ModRevision: stored.ModRevision}}, Ops: []raftstore.Op{op}})
}

// newRecord returns the record of a certificate that may be issued, without its key, and the
// conditions under which it may.
func (c *Clients) newRecord(ctx context.Context, request ClientRequest) (ClientRecord, []raftstore.Condition, error) {
	now := time.Now().UTC()
	rec := ClientRecord{User: request.User, Host: request.Host, Issued: now, FirstIssued: now, RenewedFrom: request.From}
	ttl := request.TTL
	switch {
	case ttl == 0:
		ttl = DefaultAdminLifetime
	case ttl < 0 || ttl > MaxAdminLifetime:
		return rec, nil, fault.InField("ttl", "must be more than 0 and at most %s, not %s", MaxAdminLifetime, ttl)
	}
	rec.Expires = now.Add(ttl)
	if request.From == "" {
		if rec.User == "" {
			rec.User = AdminName
		}
		if !validUser(rec.User) {
			return rec, nil, fault.InField("user", "%q is not the name of a person: up to 63 letters, digits and any of . _ @ -", hostname.Clip(rec.User))
		}
		return rec, nil, nil
	}
	return c.renewal(ctx, rec)
}

// renewal completes the record of a certificate that is asked for with that of rec.RenewedFrom.
func (c *Clients) renewal(ctx context.Context, rec ClientRecord) (ClientRecord, []raftstore.Condition, error) {
	from, conditions, err := c.usable(ctx, rec.RenewedFrom, raftstore.ReadOptions{})
	if errors.Is(err, fault.NotFound) {
		return rec, nil, fault.New(fault.Forbidden, "the mesh has not listed the certificate that asks for another").WithRemedy(newCertificateRemedy)
	}
	if err != nil {
		return rec, nil, err
	}
	if rec.User == "" {
		rec.User = from.User
	}
	rec.Root, rec.FirstIssued = from.chain(), from.FirstIssued
	if last := rec.FirstIssued.Add(MaxAdminLifetime); rec.Expires.After(last) {
		rec.Expires = last
	}
	switch {
	case rec.User != from.User:
		return rec, nil, fault.New(fault.Forbidden, "%s gets certificates for himself alone; only root on a host may name another person", from.User)
	case !rec.Expires.After(rec.Issued):
		return rec, nil, fault.New(fault.Forbidden, "the certificates of %s were renewed for %s, and no longer can be", from.User, MaxAdminLifetime).WithRemedy(newCertificateRemedy)
	}
	recs, err := c.List(ctx)
	if err != nil {
		return rec, nil, err
	}
	counted := 0
	for _, other := range recs {
		if other.chain() == rec.Root && (other.Expires.After(rec.Issued) || other.Issued.Add(renewedWindow).After(rec.Issued)) {
			counted++
		}
	}
	if counted >= maxRenewed {
		return rec, nil, fault.New(fault.Forbidden, "%s has %d certificates that were renewed from one another and are valid or less than %gh old, the most there can be", from.User, counted, renewedWindow.Hours()).
			WithRemedy("wait until some have ended, or have root on a host make a new one")
	}
	return rec, conditions, nil
}
