package identity

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/hostname"
	"virtmesh/raftstore"
)

const (
	// ClientsPrefix, followed by the hash of its key, holds the ClientRecord of each
	// certificate that the mesh has given to a person.
	ClientsPrefix = "/mesh/clients/"
	// KeyListedOnly holds the ListedOnly of a mesh that takes no certificates of people but
	// those that it has records of.
	KeyListedOnly = "/mesh/listed-only"
)

const (
	// DefaultAdminLifetime is how long an administrator's certificate is valid.
	DefaultAdminLifetime = 8 * time.Hour
	// MaxAdminLifetime is the longest time that one can be given. It also bounds renewals: no
	// certificate is valid for longer after root had the first of them signed.
	MaxAdminLifetime = 30 * 24 * time.Hour
	// unlistedLifetime is how long certificates were valid that have no record: versions
	// without records signed for a year.
	unlistedLifetime = 365 * 24 * time.Hour
	// keepEnded is how long a record stays after its certificate has ended. It is longer than
	// any clock may be ahead: a revocation must not be forgotten while another host takes the
	// certificate for valid.
	keepEnded = MaxAdminLifetime
	// maxRenewed bounds how many certificates of a chain are valid or younger than
	// renewedWindow, so that nobody fills the list by renewals.
	maxRenewed    = 32
	renewedWindow = time.Hour
)

// KeyHash returns the SHA-256 of a public key in its SubjectPublicKeyInfo form, in
// hexadecimal. Certificates of people are known by it.
func KeyHash(pin Pin) string { return hex.EncodeToString(pin[:]) }

// ClientRecord is a certificate that the mesh has given to a person: to an administrator, or to
// a user (UserRecord). The certificates that were renewed from one another are a chain, which
// begins with one that root on a host asked for, or an administrator for a user, and which is
// revoked as a whole: by its first record, so that a renewal at the moment of the revocation does
// not escape it.
type ClientRecord struct {
	// KeyHash is the KeyHash of the certificate's key.
	KeyHash string `json:"keyHash"`
	// User is the certificate's common name.
	User string `json:"user"`
	// Host is the host that signed it.
	Host    string    `json:"host,omitempty"`
	Issued  time.Time `json:"issued"`
	Expires time.Time `json:"expires"`
	// RenewedFrom is the KeyHash of the certificate whose owner asked for this one; empty if
	// root on a host asked.
	RenewedFrom string `json:"renewedFrom,omitempty"`
	// UserID is the ID in the UserRecord of the user whose it is; empty for an administrator's.
	UserID string `json:"userID,omitempty"`
	// IssuedBy is the administrator who asked for the certificate of a user; empty if root on a
	// host did, or its own user.
	IssuedBy string `json:"issuedBy,omitempty"`
	// Root is the KeyHash of the first certificate of the chain; empty in its own record.
	Root string `json:"root,omitempty"`
	// FirstIssued is when the first certificate of the chain was issued.
	FirstIssued time.Time `json:"firstIssued"`
	// Unlisted says that the certificate was not in the list when it was revoked; no more is
	// known of it than the hash of its key.
	Unlisted bool `json:"unlisted,omitempty"`
	// Revoked is nil while the certificate may be used. As stored, it is set in the first
	// record of a revoked chain; Clients.List sets it in the others too.
	Revoked *Revocation `json:"revoked,omitempty"`
	// Unreadable is why the record cannot be decoded; nil if it can. Nothing but KeyHash is
	// known then, and hosts of this version refuse the certificate.
	Unreadable error `json:"-"`
}

// chain returns the hash that all records of a chain have in common.
func (r ClientRecord) chain() string { return cmp.Or(r.Root, r.KeyHash) }

// first reports whether the record is the first of its chain.
func (r ClientRecord) first() bool { return r.Root == "" }

// forgotten returns from when on the record is of no use. The first of a chain stays until no
// certificate of the chain can be valid, since its mark revokes them all.
func (r ClientRecord) forgotten() time.Time {
	end := r.Expires
	if last := r.FirstIssued.Add(MaxAdminLifetime); r.first() && last.After(end) {
		end = last
	}
	return end.Add(keepEnded)
}

// Revocation says who revoked a certificate, and when.
type Revocation struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// ListedOnly says who ended the certificates without a record, and when.
type ListedOnly struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// Clients are the certificates of people. Its methods may be called concurrently.
type Clients struct{ store Store }

// NewClients returns the certificates of people in a store.
func NewClients(store Store) *Clients { return &Clients{store: store} }

func clientKey(keyHash string) string { return ClientsPrefix + keyHash }

// Ended returns a fault.Unauthorized if this host's copy of the state says that a person's
// certificate may not be used: it was revoked, or has no record where one is needed, or its user
// is no user any more or has other groups. It does not look at the clock, and does not block.
func (c *Clients) Ended(cert *x509.Certificate) error {
	return c.ended(context.Background(), cert, raftstore.ReadOptions{Consistency: raftstore.Local})
}

// Judge is Ended for a certificate that was just shown. One that this host's copy of the
// state does not know may be new: Judge then asks the mesh, until ctx ends.
func (c *Clients) Judge(ctx context.Context, cert *x509.Certificate) error {
	err := c.Ended(cert)
	var unlisted *unlistedError
	if !errors.As(err, &unlisted) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, defaultPatience)
	defer cancel()
	switch asked := c.ended(ctx, cert, raftstore.ReadOptions{}); {
	case asked == nil || errors.Is(asked, fault.Unauthorized):
		return asked
	default:
		return err // the mesh cannot be asked
	}
}

// unlistedError refuses a certificate that has no record.
type unlistedError struct{ keyHash string }

// Error names the certificate by its key.
func (e *unlistedError) Error() string {
	return fmt.Sprintf("the mesh has not listed a client certificate with the key %s", e.keyHash)
}

func (c *Clients) ended(ctx context.Context, cert *x509.Certificate, opts raftstore.ReadOptions) error {
	err := c.checkListed(ctx, cert, opts)
	if !errors.Is(err, fault.NotFound) {
		return err
	}
	only, err := c.ListedOnly(ctx, opts)
	// What was signed before there were lists is an administrator's.
	if err == nil && (only || !slices.Contains(cert.Subject.Organization, AdminOrganization)) {
		return fault.New(fault.Unauthorized, "%w", &unlistedError{KeyHash(PinOf(cert))}).WithRemedy(newCertificateRemedy)
	}
	return err
}

// checkListed returns fault.NotFound for a certificate without a record, and fault.Unauthorized
// for one that may not be used, or that is not the one that the record is of: who has the key of
// the CA could sign another one for a key that is listed.
func (c *Clients) checkListed(ctx context.Context, cert *x509.Certificate, opts raftstore.ReadOptions) error {
	client, err := c.usable(ctx, KeyHash(PinOf(cert)), opts)
	if err != nil {
		return err
	}
	if groups := slices.Sorted(slices.Values(cert.Subject.Organization)); cert.Subject.CommonName != client.rec.User || !slices.Equal(groups, client.groups) {
		return fault.New(fault.Unauthorized, "the certificate with this key is listed as of %s in %s, and not as of %s in %s",
			client.rec.User, groupsText(client.groups), hostname.Clip(cert.Subject.CommonName), hostname.Clip(groupsText(groups))).WithRemedy(newCertificateRemedy)
	}
	return nil
}

// usableClient is a listed certificate that may be used.
type usableClient struct {
	rec ClientRecord
	// groups are those that it names, sorted.
	groups []string
	// conditions fail once it, its chain or its user ends or changes.
	conditions []raftstore.Condition
}

// usable returns a certificate that may be used. It returns fault.NotFound if there is no record,
// and fault.Unauthorized if the certificate may not be used.
func (c *Clients) usable(ctx context.Context, keyHash string, opts raftstore.ReadOptions) (usableClient, error) {
	rec, stored, err := c.readRecord(ctx, keyHash, opts)
	if err != nil {
		return usableClient{}, err
	}
	conditions, mark := []raftstore.Condition{{Key: stored.Key, ModRevision: stored.ModRevision}}, rec.Revoked
	if !rec.first() {
		first, stored, err := c.readRecord(ctx, rec.Root, opts)
		if errors.Is(err, fault.NotFound) || err == nil && !first.first() {
			return usableClient{}, fault.New(fault.Unauthorized, "%w", &unlistedError{rec.Root}).WithRemedy(newCertificateRemedy)
		}
		if err != nil {
			return usableClient{}, err
		}
		conditions, mark = append(conditions, raftstore.Condition{Key: stored.Key, ModRevision: stored.ModRevision}), cmp.Or(mark, first.Revoked)
	}
	if mark != nil {
		return usableClient{}, fault.New(fault.Unauthorized, "the client certificate of %s was revoked by %s at %s",
			rec.User, mark.By, mark.At.Format(time.RFC3339)).WithRemedy(remedyFor(rec))
	}
	groups, user, err := c.groupsOf(ctx, rec, opts)
	return usableClient{rec, groups, append(conditions, user)}, err
}

// groupsOf returns the groups that a listed certificate names, sorted, and the condition under
// which they stay so. This is the only place that says what the certificates of people are for:
// one of a user names the groups in the record of that user, as long as the record is the one of
// when it was listed; every other one is an administrator's, in a name that no user has.
func (c *Clients) groupsOf(ctx context.Context, rec ClientRecord, opts raftstore.ReadOptions) ([]string, raftstore.Condition, error) {
	user, stored, err := readUser(ctx, c.store, rec.User, opts)
	if err != nil && !errors.Is(err, raftstore.ErrNotFound) {
		return nil, raftstore.Condition{}, err
	}
	found, while := err == nil, raftstore.Condition{Key: userKey(rec.User), ModRevision: stored.ModRevision}
	refuse := func(format string, args ...any) ([]string, raftstore.Condition, error) {
		return nil, while, fault.New(fault.Unauthorized, format, args...).WithRemedy(remedyFor(rec))
	}
	switch {
	case rec.UserID == "" && found:
		return refuse("%s is a user of the mesh, and the certificate is an administrator's", rec.User)
	case rec.UserID == "":
		return []string{AdminOrganization}, while, nil
	case !found:
		return refuse("%s is no user of the mesh any more", rec.User)
	case user.ID != rec.UserID:
		return refuse("the groups of %s were changed, or he was removed and added again, after the certificate was signed", rec.User)
	}
	if err := user.Validate(); err != nil {
		return refuse("the record of the user %s is spoilt: %w", rec.User, err)
	}
	return user.Groups, while, nil
}

// newCertificateRemedy is what helps somebody whose certificate is refused.
const newCertificateRemedy = "root on any host makes a new one: virtmesh kubeconfig --output FILE"

// remedyFor is newCertificateRemedy for the owner of a listed certificate.
func remedyFor(rec ClientRecord) string {
	if rec.UserID == "" {
		return newCertificateRemedy
	}
	return "root on any host, or an administrator, makes a new one for a user: virtmesh kubeconfig --user " + rec.User + " --output FILE"
}

// readRecord returns a record as decoded and as stored, or fault.NotFound.
func (c *Clients) readRecord(ctx context.Context, keyHash string, opts raftstore.ReadOptions) (ClientRecord, raftstore.Record, error) {
	var rec ClientRecord
	stored, err := readJSON(ctx, c.store, clientKey(keyHash), opts, &rec)
	if errors.Is(err, raftstore.ErrNotFound) {
		return rec, stored, fmt.Errorf("client certificate %s: %w", keyHash, fault.NotFound)
	}
	rec.KeyHash = keyHash
	return rec, stored, err
}

// ListedOnly reports whether the mesh refuses certificates of people that have no record.
func (c *Clients) ListedOnly(ctx context.Context, opts raftstore.ReadOptions) (bool, error) {
	_, _, err := c.store.Get(ctx, KeyListedOnly, opts)
	if errors.Is(err, raftstore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read %s: %w", KeyListedOnly, err)
	}
	return true, nil
}

// List returns all records by the hashes of their keys, also those of certificates that have
// ended within the last weeks, and those that are Unreadable.
func (c *Clients) List(ctx context.Context) ([]ClientRecord, error) {
	recs, _, err := c.list(ctx)
	return recs, err
}

// list returns the records, each with the mark of its chain, and as they are stored.
func (c *Clients) list(ctx context.Context) ([]ClientRecord, []raftstore.Record, error) {
	res, err := c.store.List(ctx, raftstore.ListRequest{Prefix: ClientsPrefix})
	if err != nil {
		return nil, nil, fmt.Errorf("list client certificates: %w", err)
	}
	recs := make([]ClientRecord, len(res.Records))
	for i, r := range res.Records {
		if err := json.Unmarshal(r.Value, &recs[i]); err != nil {
			recs[i] = ClientRecord{Unreadable: err} // and nothing of what was decoded before the error
		}
		recs[i].KeyHash = strings.TrimPrefix(r.Key, ClientsPrefix)
	}
	marks := map[string]*Revocation{}
	for _, rec := range recs {
		if rec.first() {
			marks[rec.KeyHash] = rec.Revoked
		}
	}
	for i := range recs {
		recs[i].Revoked = cmp.Or(recs[i].Revoked, marks[recs[i].chain()])
	}
	return recs, res.Records, nil
}

// Prune deletes the records of certificates that have ended long ago by this host's clock,
// and returns how many. It leaves alone those that it cannot read.
func (c *Clients) Prune(ctx context.Context) (int, error) {
	recs, stored, err := c.list(ctx)
	if err != nil {
		return 0, err
	}
	pruned := 0
	for i, rec := range recs {
		if rec.Unreadable != nil || time.Now().Before(rec.forgotten()) {
			continue
		}
		_, err := c.store.Commit(ctx, raftstore.Txn{
			If:  []raftstore.Condition{{Key: stored[i].Key, ModRevision: stored[i].ModRevision}},
			Ops: []raftstore.Op{{Key: stored[i].Key, Delete: true}},
		})
		var changed *raftstore.ConflictError
		if err != nil && !errors.As(err, &changed) {
			return pruned, fmt.Errorf("prune client certificates: %w", err)
		}
		if err == nil {
			pruned++
		}
	}
	return pruned, nil
}
