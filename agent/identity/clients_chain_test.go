package identity_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// TestRenewalMeetsRevocation: a renewal that is committed after the revocation has read the
// list, and before it is committed itself, gives a certificate that is worth nothing, and that
// cannot be renewed.
func TestRenewalMeetsRevocation(t *testing.T) {
	m := identitytest.NewMesh(t)
	clients := identity.NewClients(m.Store)
	thief := mustIssue(t, m.Store, "alice", "")
	for range 3 {
		thief = mustIssue(t, m.Store, "", thief.rec.KeyHash)
	}
	m.Store.BeforeCommit = func(raftstore.Txn) error {
		m.Store.BeforeCommit = nil
		thief = mustIssue(t, m.Store, "", thief.rec.KeyHash)
		return nil
	}
	if _, err := clients.Revoke(t.Context(), "alice", "root"); err != nil {
		t.Fatal(err)
	}
	if err := clients.Ended(thief.cert); !errors.Is(err, fault.Unauthorized) {
		t.Errorf("the renewed certificate: %v", err)
	}
	if _, err := issue(t, m.Store, "", thief.rec.KeyHash, 0); !errors.Is(err, fault.Unauthorized) {
		t.Errorf("it is renewed: %v", err)
	}
	list, err := clients.List(t.Context())
	if err != nil || len(list) != 5 {
		t.Fatalf("listed: %d, %v", len(list), err)
	}
	for _, rec := range list {
		if rec.Revoked == nil {
			t.Errorf("%s is listed as valid", rec.KeyHash)
		}
	}
}

// TestManyRenewals: who renews as often as he can gets so many certificates and no more, and
// all of them are revoked at once.
func TestManyRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		first := mustIssue(t, m.Store, "alice", "")
		var err error
		for made := 0; err == nil; made++ {
			if made == 1000 {
				t.Fatal("renewed 1000 times within an instant")
			}
			_, err = issue(t, m.Store, "", first.rec.KeyHash, time.Second)
		}
		if !errors.Is(err, fault.Forbidden) {
			t.Errorf("too many renewals: %v", err)
		}
		mustIssue(t, m.Store, "alice", "") // by root
		time.Sleep(2 * time.Hour)
		last, err := issue(t, m.Store, "", first.rec.KeyHash, 0)
		if err != nil {
			t.Fatalf("after the others have ended: %v", err)
		}
		clients := identity.NewClients(m.Store)
		if _, err := clients.Revoke(t.Context(), last.rec.KeyHash[:16], "root"); err != nil {
			t.Fatal(err)
		}
		for what, p := range map[string]person{"renewed": last, "first": first} {
			if clients.Ended(p.cert) == nil {
				t.Errorf("the %s certificate is accepted", what)
			}
		}
	})
}

// TestRevocationOutlivesRenewals: the mark on the first certificate stays until none that was
// renewed from it can be valid on any host.
func TestRevocationOutlivesRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		clients := identity.NewClients(m.Store)
		p, err := issue(t, m.Store, "alice", "", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if p, err = issue(t, m.Store, "", p.rec.KeyHash, identity.MaxAdminLifetime); err != nil {
			t.Fatal(err)
		}
		if _, err := clients.Revoke(t.Context(), "alice", "root"); err != nil {
			t.Fatal(err)
		}
		for range 58 {
			time.Sleep(24 * time.Hour)
			if _, err := clients.Prune(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := clients.Ended(p.cert); !errors.Is(err, fault.Unauthorized) || !revokedBy(err, "root") {
				t.Fatalf("the renewed certificate: %v", err)
			}
		}
	})
}

func revokedBy(err error, who string) bool {
	return strings.Contains(err.Error(), "revoked by "+who)
}

// TestCertificateIsListedBeforeItIsSigned: no certificate is signed that the list does not have,
// and one that could not be signed is not listed as valid.
func TestCertificateIsListedBeforeItIsSigned(t *testing.T) {
	m := identitytest.NewMesh(t)
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	request := identity.ClientRequest{Key: &key.PublicKey, User: "alice", Administrator: true, Host: "host2"}
	voter := identity.NewSigner(m.Store, 0)
	down := errors.New("no voter answers")
	away := &recordingVoter{Authority: voter, err: down, held: func() (n int) {
		list, err := identity.NewClients(m.Store).List(t.Context())
		if err != nil {
			t.Error(err)
		}
		return len(list)
	}}
	m.Store.BeforeCommit = func(raftstore.Txn) error { return raftstore.ErrNoLeader }
	withdrawn := &keyless{Store: m.Store}
	if _, _, _, err := identity.NewSigner(withdrawn, 0).WithKeyring(nil, away).IssueClient(t.Context(), request); !errors.Is(err, raftstore.ErrNoLeader) || away.asked != 0 {
		t.Errorf("without a quorum: %v, and %d certificates were signed", err, away.asked)
	}
	m.Store.BeforeCommit = nil
	if _, _, _, err := identity.NewSigner(withdrawn, 0).WithKeyring(nil, away).IssueClient(t.Context(), request); !errors.Is(err, down) || away.asked != 1 || away.listed != 1 {
		t.Errorf("without a voter: %v, asked %d times with %d records", err, away.asked, away.listed)
	}
	list, err := identity.NewClients(m.Store).List(t.Context())
	if err != nil || len(list) != 1 || list[0].Revoked == nil {
		t.Errorf("the certificate that nobody signed is listed as %+v, %v", list, err)
	}
}

// recordingVoter fails to sign, and counts the records that there are when it is asked to.
type recordingVoter struct {
	identity.Authority
	err           error
	held          func() int
	asked, listed int
}

func (v *recordingVoter) SignClient(context.Context, identity.ClientSigning) (identity.Issued, error) {
	v.asked, v.listed = v.asked+1, v.held()
	return identity.Issued{}, v.err
}

// keyless is a store without the key of the CA.
type keyless struct{ *identitytest.Store }

func (s *keyless) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	rec, revision, err := s.Store.Get(ctx, key, opts)
	if key != identity.KeyCA || err != nil {
		return rec, revision, err
	}
	var ca identity.CARecord
	if err := json.Unmarshal(rec.Value, &ca); err != nil {
		return rec, revision, err
	}
	ca.Key = nil
	rec.Value, err = json.Marshal(ca)
	return rec, revision, err
}
