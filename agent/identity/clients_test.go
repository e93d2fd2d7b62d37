package identity_test

import (
	"context"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// person is somebody with a certificate.
type person struct {
	cert *x509.Certificate
	rec  identity.ClientRecord
}

func issue(t *testing.T, store identity.Store, user, from string, ttl time.Duration) (person, error) {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	chain, bundle, rec, err := identity.NewSigner(store, 0).IssueClient(t.Context(), identity.ClientRequest{
		Key: &key.PublicKey, User: user, Administrator: true, TTL: ttl, Host: "host1", From: from,
	})
	if err != nil {
		return person{}, err
	}
	certs, err := identity.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	if roots, err := identity.NewPool(bundle); err != nil {
		t.Fatal(err)
	} else if _, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("the certificate of %s: %v", user, err)
	}
	return person{certs[0], rec}, nil
}

func mustIssue(t *testing.T, store identity.Store, user, from string) person {
	t.Helper()
	p, err := issue(t, store, user, from, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// beforeLists makes the mesh one whose first host knew no lists of certificates.
func beforeLists(t *testing.T, m *identitytest.Mesh) {
	t.Helper()
	if _, err := m.Store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: identity.KeyListedOnly, Delete: true}}}); err != nil {
		t.Fatal(err)
	}
}

func TestCertificatesAreListedAndShort(t *testing.T) {
	m := identitytest.NewMesh(t)
	p := mustIssue(t, m.Store, "alice", "")
	if p.cert.Subject.CommonName != "alice" || !slices.Contains(p.cert.Subject.Organization, identity.AdminOrganization) {
		t.Errorf("the certificate names %s", p.cert.Subject)
	}
	if left := time.Until(p.cert.NotAfter); left > identity.DefaultAdminLifetime || left < identity.DefaultAdminLifetime-time.Minute {
		t.Errorf("the certificate is valid for %s", left)
	}
	list, err := identity.NewClients(m.Store).List(t.Context())
	if err != nil || len(list) != 1 || list[0] != p.rec || p.rec.KeyHash != identity.KeyHash(identity.PinOf(p.cert)) || p.rec.User != "alice" {
		t.Errorf("listed: %+v, %v; want %+v", list, err, p.rec)
	}
	if p := mustIssue(t, m.Store, "", ""); p.rec.User != identity.AdminName {
		t.Errorf("a certificate for nobody in particular is of %s", p.rec.User)
	}
	for _, test := range []struct {
		user, field string
		ttl         time.Duration
	}{
		{"system:node:host1", "user", 0}, {"system:masters", "user", 0}, {strings.Repeat("a", 64), "user", 0}, {"a b", "user", 0}, {"-a", "user", 0},
		{"alice", "ttl", -time.Second}, {"alice", "ttl", identity.MaxAdminLifetime + 1},
	} {
		_, err := issue(t, m.Store, test.user, "", test.ttl)
		if told := fault.Of(err); err == nil || told.Code != fault.Invalid || told.Field != test.field {
			t.Errorf("for %q, %s: %v", test.user, test.ttl, err)
		}
	}
}

func TestUnlistedCertificates(t *testing.T) {
	m := identitytest.NewMesh(t)
	clients := identity.NewClients(m.Store)
	listed, unlisted := mustIssue(t, m.Store, "alice", ""), m.Admin(t, time.Hour).Leaf
	judge := func(what string, cert *x509.Certificate, accepted bool) {
		t.Helper()
		for check, err := range map[string]error{"open": clients.Ended(cert), "shown": clients.Judge(t.Context(), cert)} {
			if accepted != (err == nil) || err != nil && !errors.Is(err, fault.Unauthorized) {
				t.Errorf("%s, %s: %v", what, check, err)
			}
		}
	}
	judge("listed", listed.cert, true)
	judge("signed by somebody with the CA's key", unlisted, false)
	beforeLists(t, m)
	judge("of an earlier version", unlisted, true)
	if _, err := issue(t, m.Store, "", identity.KeyHash(identity.PinOf(unlisted)), 0); !errors.Is(err, fault.Forbidden) {
		t.Errorf("it is renewed: %v", err)
	}
	for range 2 {
		if err := clients.RefuseUnlisted(t.Context(), "root"); err != nil {
			t.Fatal(err)
		}
	}
	judge("listed, after unlisted ones were refused", listed.cert, true)
	judge("of an earlier version, after that", unlisted, false)
}

func TestUnlistedCertificateIsRevokedByItsHash(t *testing.T) {
	m := identitytest.NewMesh(t)
	beforeLists(t, m)
	clients := identity.NewClients(m.Store)
	stolen, other := m.Admin(t, time.Hour).Leaf, m.Admin(t, time.Hour).Leaf
	recs, err := clients.Revoke(t.Context(), identity.KeyHash(identity.PinOf(stolen)), "root")
	if err != nil || len(recs) != 1 || !recs[0].Unlisted {
		t.Fatalf("revoked: %+v, %v", recs, err)
	}
	if clients.Ended(stolen) == nil {
		t.Error("it is accepted")
	}
	if err := clients.Ended(other); err != nil {
		t.Errorf("another one: %v", err)
	}
	// Where hosts take listed certificates only, a hash that is not listed is a mistyped one.
	if err := clients.RefuseUnlisted(t.Context(), "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := clients.Revoke(t.Context(), identity.KeyHash(identity.PinOf(other)), "root"); !errors.Is(err, fault.NotFound) {
		t.Errorf("a hash that is not listed: %v", err)
	}
}

func TestRevoke(t *testing.T) {
	m := identitytest.NewMesh(t)
	clients := identity.NewClients(m.Store)
	alice, bob := mustIssue(t, m.Store, "alice", ""), mustIssue(t, m.Store, "bob", "")
	phone := mustIssue(t, m.Store, "alice", "")
	renewed := mustIssue(t, m.Store, "", bob.rec.KeyHash)
	again := mustIssue(t, m.Store, "bob", renewed.rec.KeyHash)
	desk := mustIssue(t, m.Store, "bob", "")
	revoke := func(which string, want ...person) {
		t.Helper()
		got, err := clients.Revoke(t.Context(), which, "carol")
		if err != nil || len(got) != len(want) {
			t.Errorf("revoke %s: %d certificates, %v; want %d", which, len(got), err, len(want))
		}
		for _, p := range want {
			err := clients.Ended(p.cert)
			if !errors.Is(err, fault.Unauthorized) || !strings.Contains(err.Error(), "revoked by carol") {
				t.Errorf("after revoke %s, %s: %v", which, p.rec.User, err)
			}
		}
	}
	revoke("alice", alice, phone)
	revoke("alice")
	revoke(bob.rec.KeyHash[:8], bob, renewed, again)
	if err := clients.Ended(desk.cert); err != nil {
		t.Errorf("a certificate of bob's that was not renewed from the revoked one: %v", err)
	}
	if _, err := issue(t, m.Store, "", again.rec.KeyHash, 0); !errors.Is(err, fault.Unauthorized) {
		t.Errorf("a revoked certificate is renewed: %v", err)
	}
	revoke("bob", desk)
	for _, which := range []string{"nobody", "", "0a0b", bob.rec.KeyHash[:7], strings.Repeat("z", 64)} {
		if _, err := clients.Revoke(t.Context(), which, "carol"); !errors.Is(err, fault.NotFound) {
			t.Errorf("revoke %q: %v", which, err)
		}
	}
}

// TestRevocationMeetsRenewal: who asks for another certificate at the moment when his is
// revoked has none afterwards.
func TestRevocationMeetsRenewal(t *testing.T) {
	m := identitytest.NewMesh(t)
	thief := mustIssue(t, m.Store, "alice", "")
	m.Store.BeforeCommit = func(raftstore.Txn) error {
		m.Store.BeforeCommit = nil
		_, err := identity.NewClients(m.Store).Revoke(t.Context(), "alice", "root")
		return err
	}
	if p, err := issue(t, m.Store, "", thief.rec.KeyHash, 0); err == nil {
		t.Errorf("a certificate until %s", p.rec.Expires)
	}
}

func TestRenewalsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		p, err := issue(t, m.Store, "alice", "", identity.MaxAdminLifetime/4)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := issue(t, m.Store, "bob", p.rec.KeyHash, 0); !errors.Is(err, fault.Forbidden) {
			t.Errorf("alice gets a certificate for bob: %v", err)
		}
		first := p.rec.Issued
		for range 3 {
			time.Sleep(identity.MaxAdminLifetime / 4)
			if p, err = issue(t, m.Store, "", p.rec.KeyHash, identity.MaxAdminLifetime); err != nil {
				t.Fatal(err)
			}
			if p.rec.User != "alice" || p.cert.NotAfter.Sub(first) > identity.MaxAdminLifetime {
				t.Errorf("a renewed certificate of %s ends %s after the first began", p.rec.User, p.cert.NotAfter.Sub(first))
			}
		}
		time.Sleep(identity.MaxAdminLifetime / 4)
		if _, err := issue(t, m.Store, "", p.rec.KeyHash, 0); !errors.Is(err, fault.Forbidden) {
			t.Errorf("renewed for ever: %v", err)
		}
	})
}

// TestNewCertificateOnAnotherHost: a host whose copy of the state lags asks the mesh before it
// refuses a certificate. If it cannot ask, those that it knows go on to work.
func TestNewCertificateOnAnotherHost(t *testing.T) {
	m := identitytest.NewMesh(t)
	known := mustIssue(t, m.Store, "alice", "")
	behind := &lagging{Store: m.Store}
	news := mustIssue(t, m.Store, "bob", "")
	behind.hides = identity.ClientsPrefix + news.rec.KeyHash
	clients := identity.NewClients(behind)
	if err := clients.Judge(t.Context(), news.cert); err != nil {
		t.Errorf("a new certificate: %v", err)
	}
	m.Store.BeforeRead = func(opts raftstore.ReadOptions) error {
		if opts.Consistency == raftstore.Local {
			return nil
		}
		return raftstore.ErrNoLeader
	}
	if err := clients.Judge(t.Context(), known.cert); err != nil {
		t.Errorf("without a quorum, a certificate that the host knows: %v", err)
	}
	if err := clients.Judge(t.Context(), news.cert); !errors.Is(err, fault.Unauthorized) {
		t.Errorf("without a quorum, one that it does not know: %v", err)
	}
}

// lagging is a store whose local reads do not know one key yet.
type lagging struct {
	*identitytest.Store
	hides string
}

func (s *lagging) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	if key == s.hides && opts.Consistency == raftstore.Local {
		return raftstore.Record{}, 0, raftstore.ErrNotFound
	}
	return s.Store.Get(ctx, key, opts)
}

func TestOldRecordsArePruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		clients := identity.NewClients(m.Store)
		p := mustIssue(t, m.Store, "alice", "")
		if _, err := clients.Revoke(t.Context(), "alice", "root"); err != nil {
			t.Fatal(err)
		}
		// The clock of another host may be weeks behind.
		time.Sleep(identity.MaxAdminLifetime + 29*24*time.Hour)
		if n, err := clients.Prune(t.Context()); n != 0 || err != nil || clients.Ended(p.cert) == nil {
			t.Errorf("pruned %d, %v, %v", n, err, clients.Ended(p.cert))
		}
		time.Sleep(2 * 24 * time.Hour)
		if n, err := clients.Prune(t.Context()); n != 1 || err != nil {
			t.Errorf("pruned %d, %v", n, err)
		}
	})
}
