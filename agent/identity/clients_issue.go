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

// IssueAdministrator signs the certificate of an administrator and stores its record, without
// which no host would take it. It returns the certificate as PEM, and the bundle of CAs to
// trust. Who has a certificate gets further ones for himself alone, and not for longer than
// MaxAdminLifetime after root had the first one signed.
func (s *Signer) IssueAdministrator(ctx context.Context, request ClientRequest) (cert, bundle []byte, rec ClientRecord, err error) {
	pin, err := PinOfKey(request.Key)
	if err != nil {
		return nil, nil, rec, err
	}
	rec, condition, err := NewClients(s.store).newRecord(ctx, request)
	if err != nil {
		return nil, nil, rec, err
	}
	rec.KeyHash = KeyHash(pin)
	signing, err := NewClientSigning(request.Key, rec.User, []string{AdminOrganization}, rec.Expires.Sub(rec.Issued))
	if err != nil {
		return nil, nil, rec, err
	}
	issued, err := s.SignClient(ctx, signing)
	if err != nil {
		return nil, nil, rec, fmt.Errorf("sign the certificate of %s: %w", rec.User, err)
	}
	op, err := putOp(clientKey(rec.KeyHash), rec)
	if err != nil {
		return nil, nil, rec, err
	}
	_, err = s.store.Commit(ctx, raftstore.Txn{If: append(condition, raftstore.Condition{Key: op.Key}), Ops: []raftstore.Op{op}})
	var conflict *raftstore.ConflictError
	if errors.As(err, &conflict) {
		return nil, nil, rec, fault.New(fault.Conflict, "the certificate that asks for another was changed meanwhile, or this key has one already").WithRemedy("try again")
	}
	if err != nil {
		return nil, nil, rec, fmt.Errorf("list the certificate of %s: %w", rec.User, err)
	}
	return issued.Chain, issued.CABundle, rec, nil
}

// newRecord returns the record of a certificate that may be issued, without its key, and the
// condition under which it may.
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
		if rec.User != AdminName && !userPattern.MatchString(rec.User) {
			return rec, nil, fault.InField("user", "%q is not the name of a person: up to 63 letters, digits and any of . _ @ -", hostname.Clip(rec.User))
		}
		return rec, nil, nil
	}
	from, stored, err := c.get(ctx, request.From, raftstore.ReadOptions{})
	if errors.Is(err, fault.NotFound) {
		return rec, nil, fault.New(fault.Forbidden, "the mesh has not listed the certificate that asks for another").WithRemedy(newCertificateRemedy)
	}
	if err != nil {
		return rec, nil, err
	}
	if rec.User == "" {
		rec.User = from.User
	}
	if rec.FirstIssued = from.FirstIssued; rec.Expires.After(rec.FirstIssued.Add(MaxAdminLifetime)) {
		rec.Expires = rec.FirstIssued.Add(MaxAdminLifetime)
	}
	switch {
	case from.Revoked != nil:
		return rec, nil, fault.New(fault.Unauthorized, "the client certificate of %s was revoked", from.User).WithRemedy(newCertificateRemedy)
	case rec.User != from.User:
		return rec, nil, fault.New(fault.Forbidden, "%s gets certificates for himself alone; only root on a host may name another person", from.User)
	case !rec.Expires.After(now):
		return rec, nil, fault.New(fault.Forbidden, "the certificates of %s were renewed for %s, and no longer can be", from.User, MaxAdminLifetime).WithRemedy(newCertificateRemedy)
	}
	return rec, []raftstore.Condition{{Key: stored.Key, ModRevision: stored.ModRevision}}, nil
}
