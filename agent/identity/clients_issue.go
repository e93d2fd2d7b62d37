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

// ClientRequest asks for the certificate of a person.
type ClientRequest struct {
	// Key is the key to certify; the caller has proved that he has the private one.
	Key *ecdsa.PublicKey
	// User is the name of the person; empty stands for that of From, or for AdminName.
	User string
	// Administrator says that the certificate is to be an administrator's, in the name User,
	// which no user of the mesh may have. AdminName, and who renews his own, need not say it.
	Administrator bool
	// TTL is how long the certificate shall be valid, at most MaxAdminLifetime; zero stands
	// for DefaultAdminLifetime.
	TTL time.Duration
	// Host is this host's name.
	Host string
	// From is the hash of the key of the certificate by which the mesh knows who asks; empty
	// if root on this host asks.
	From string
}

// userPattern is which names people can have, users and administrators. It has no colon, as the
// names of the system and of hosts do.
var userPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

func validUser(user string) bool { return user == AdminName || userPattern.MatchString(user) }

// IssueClient stores the record of a person's certificate, without which no host would sign or
// take it, and has it signed. It returns the certificate as PEM, and the bundle of CAs to trust.
// Root on a host gets certificates for everybody, an administrator for himself and for users, and
// a user for himself alone; fault.NotFound if there is no such user. Renewals end MaxAdminLifetime
// after the first of them was signed.
func (s *Signer) IssueClient(ctx context.Context, request ClientRequest) (cert, bundle []byte, rec ClientRecord, err error) {
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
		return nil, nil, rec, fault.New(fault.Conflict, "the user or the certificate that asks for another was changed meanwhile, or this key has one already").WithRemedy("try again")
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
	if request.From != "" {
		return c.nextRecord(ctx, rec, request.Administrator)
	}
	if rec.User == "" {
		rec.User = AdminName
	}
	return c.firstRecord(ctx, rec, request.Administrator || rec.User == AdminName)
}

// firstRecord completes the record of a certificate that begins a chain.
func (c *Clients) firstRecord(ctx context.Context, rec ClientRecord, administrator bool) (ClientRecord, []raftstore.Condition, error) {
	if !validUser(rec.User) {
		return rec, nil, fault.InField("user", "%q is not the name of a person: up to 63 letters, digits and any of . _ @ -", hostname.Clip(rec.User))
	}
	user, stored, err := readUser(ctx, c.store, rec.User, raftstore.ReadOptions{})
	found := err == nil
	switch {
	case err != nil && !errors.Is(err, raftstore.ErrNotFound):
		return rec, nil, err
	case found && administrator:
		return rec, nil, fault.New(fault.Conflict, "%s is a user of the mesh, and no administrator's certificate can be in that name", rec.User).
			About(rec.User).WithRemedy("take another name, or leave --admin out for the certificate of the user")
	case found:
		rec.UserID = user.ID
	case !administrator:
		return rec, nil, fault.New(fault.NotFound, "the mesh has no user %s", rec.User).About(rec.User).
			WithRemedy("'virtmesh user add " + rec.User + "' makes one; --admin makes the certificate an administrator's, who may do all")
	}
	return rec, []raftstore.Condition{{Key: userKey(rec.User), ModRevision: stored.ModRevision}}, nil
}

// nextRecord completes the record of a certificate that the owner of rec.RenewedFrom asks for.
func (c *Clients) nextRecord(ctx context.Context, rec ClientRecord, administrator bool) (ClientRecord, []raftstore.Condition, error) {
	from, err := c.usable(ctx, rec.RenewedFrom, raftstore.ReadOptions{})
	if errors.Is(err, fault.NotFound) {
		return rec, nil, fault.New(fault.Forbidden, "the mesh has not listed the certificate that asks for another").WithRemedy(newCertificateRemedy)
	}
	if err != nil {
		return rec, nil, err
	}
	switch asks := from.rec; {
	case asks.UserID == "" && rec.User != "" && rec.User != asks.User && rec.User != AdminName && !administrator:
		rec.RenewedFrom, rec.IssuedBy = "", asks.User
		rec, conditions, err := c.firstRecord(ctx, rec, false)
		return rec, append(conditions, from.conditions...), err
	case asks.UserID != "" && administrator:
		return rec, nil, fault.New(fault.Forbidden, "%s is a user of the mesh; only root on a host makes an administrator's certificate", asks.User)
	case rec.User != "" && rec.User != asks.User:
		return rec, nil, fault.New(fault.Forbidden, "%s gets certificates for himself alone; only root on a host may name another person", asks.User)
	}
	return c.renewal(ctx, rec, from)
}

// renewal completes the record of a certificate with that of the one that it renews.
func (c *Clients) renewal(ctx context.Context, rec ClientRecord, from usableClient) (ClientRecord, []raftstore.Condition, error) {
	rec.User, rec.UserID = from.rec.User, from.rec.UserID
	rec.Root, rec.FirstIssued = from.rec.chain(), from.rec.FirstIssued
	if last := rec.FirstIssued.Add(MaxAdminLifetime); rec.Expires.After(last) {
		rec.Expires = last
	}
	if !rec.Expires.After(rec.Issued) {
		return rec, nil, fault.New(fault.Forbidden, "the certificates of %s were renewed for %s, and no longer can be", rec.User, MaxAdminLifetime).WithRemedy(remedyFor(rec))
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
		return rec, nil, fault.New(fault.Forbidden, "%s has %d certificates that were renewed from one another and are valid or less than %gh old, the most there can be", rec.User, counted, renewedWindow.Hours()).
			WithRemedy("wait until some have ended, or have root on a host make a new one")
	}
	return rec, from.conditions, nil
}
