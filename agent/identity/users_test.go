package identity_test

import (
	"context"
	"crypto/x509"
	"encoding/json"
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

// ask has a certificate made as it is asked for, with a new key.
func ask(t *testing.T, store identity.Store, request identity.ClientRequest) (person, error) {
	t.Helper()
	key := newKey(t)
	request.Key, request.Host = &key.PublicKey, "host1"
	chain, _, rec, err := identity.NewSigner(store, 0).IssueClient(t.Context(), request)
	if err != nil {
		return person{}, err
	}
	certs, err := identity.ParseCertificates(chain)
	if err != nil {
		t.Fatal(err)
	}
	return person{certs[0], rec}, nil
}

func mustAsk(t *testing.T, store identity.Store, request identity.ClientRequest) person {
	t.Helper()
	p, err := ask(t, store, request)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustAdd(t *testing.T, store identity.Store, name string, groups ...string) identity.UserChange {
	t.Helper()
	change, err := identity.NewUsers(store).Add(t.Context(), identity.UserRequest{Name: name, Groups: groups, By: "root"})
	if err != nil {
		t.Fatal(err)
	}
	return change
}

// mustJudge checks whether a certificate is taken: as it is shown, and on an open connection.
func mustJudge(t *testing.T, store identity.Store, what string, cert *x509.Certificate, accepted bool) {
	t.Helper()
	clients := identity.NewClients(store)
	for check, err := range map[string]error{"open": clients.Ended(cert), "shown": clients.Judge(t.Context(), cert), "of a former CA": clients.MustBeListed(cert)} {
		if accepted != (err == nil) || err != nil && !errors.Is(err, fault.Unauthorized) {
			t.Errorf("%s, %s: %v", what, check, err)
		}
	}
}

func TestCertificateOfAUser(t *testing.T) {
	m := identitytest.NewMesh(t)
	mustAdd(t, m.Store, "alice", "testers", "a-developers", "testers")
	for who, groups := range map[string][]string{"alice": {"a-developers", "testers"}, "bob@example.org": nil} {
		if groups == nil {
			mustAdd(t, m.Store, who)
		}
		p := mustAsk(t, m.Store, identity.ClientRequest{User: who})
		if got := slices.Sorted(slices.Values(p.cert.Subject.Organization)); p.cert.Subject.CommonName != who || !slices.Equal(got, groups) {
			t.Errorf("%s: the certificate names %s", who, p.cert.Subject)
		}
		mustJudge(t, m.Store, who, p.cert, true)
		next := mustAsk(t, m.Store, identity.ClientRequest{From: p.rec.KeyHash})
		if next.cert.Subject.CommonName != who || next.rec.Root != p.rec.KeyHash || next.rec.UserID != p.rec.UserID {
			t.Errorf("%s: the next one is %+v", who, next.rec)
		}
		mustJudge(t, m.Store, "the next one of "+who, next.cert, true)
	}
}

func TestUsersAreAddedOnce(t *testing.T) {
	m := identitytest.NewMesh(t)
	users := identity.NewUsers(m.Store)
	first := mustAdd(t, m.Store, "alice", "b", "a")
	for name, again := range map[string]identity.UserChange{"the same": mustAdd(t, m.Store, "alice", "a", "b", "a"), "no groups": mustAdd(t, m.Store, "alice")} {
		if again.Created || again.Changed || again.User.ID != first.User.ID || !slices.Equal(again.User.Groups, []string{"a", "b"}) {
			t.Errorf("%s: %+v", name, again)
		}
	}
	if _, err := users.Add(t.Context(), identity.UserRequest{Name: "alice", Groups: []string{"c"}}); !errors.Is(err, fault.AlreadyExists) {
		t.Errorf("other groups: %v", err)
	}
	for _, bad := range []struct {
		name   string
		groups []string
		field  string
	}{
		{"", nil, "name"}, {"system:admin", nil, "name"}, {"virtmesh:admin", nil, "name"}, {"a b", nil, "name"}, {"-a", nil, "name"}, {"a/b", nil, "name"},
		{strings.Repeat("a", 64), nil, "name"}, {"bob", []string{"system:masters"}, "groups"}, {"bob", []string{"ok", "System:Masters"}, "groups"},
		{"bob", []string{"virtmesh:x"}, "groups"}, {"bob", []string{""}, "groups"}, {"bob", []string{"a,b"}, "groups"}, {"bob", make([]string, 1), "groups"},
		{"bob", strings.Split("a1,"+strings.Repeat("b,", 3)+"c,d,e,f,g,h,i,j,k,l,m,n,o,p,q,r,s,t,u,v,w,x,y,z,0,1,2,3,4,5,6,7", ","), "groups"},
	} {
		_, err := users.Add(t.Context(), identity.UserRequest{Name: bad.name, Groups: bad.groups})
		if told := fault.Of(err); err == nil || told.Code != fault.Invalid || told.Field != bad.field {
			t.Errorf("%q in %q: %v", bad.name, bad.groups, err)
		}
	}
	if list, err := users.List(t.Context()); err != nil || len(list) != 1 || list[0].Name != "alice" {
		t.Errorf("users: %+v, %v", list, err)
	}
}

// TestCertificatesEndWithTheirUser: who is removed, or gets other groups, is refused at once,
// whether the list was marked or not, and stays refused if a user of that name comes back.
func TestCertificatesEndWithTheirUser(t *testing.T) {
	m := identitytest.NewMesh(t)
	users := identity.NewUsers(m.Store)
	mustAdd(t, m.Store, "alice", "dev")
	mustAdd(t, m.Store, "bob", "dev")
	bob := mustAsk(t, m.Store, identity.ClientRequest{User: "bob"})
	var ended []person
	issue := func() {
		p := mustAsk(t, m.Store, identity.ClientRequest{User: "alice"})
		ended = append(ended, p, mustAsk(t, m.Store, identity.ClientRequest{From: p.rec.KeyHash}))
	}
	check := func(after string) {
		t.Helper()
		for _, p := range ended {
			mustJudge(t, m.Store, after, p.cert, false)
			if _, err := ask(t, m.Store, identity.ClientRequest{From: p.rec.KeyHash}); !errors.Is(err, fault.Unauthorized) {
				t.Errorf("after %s, it is renewed: %v", after, err)
			}
		}
		mustJudge(t, m.Store, "another user's", bob.cert, true)
	}
	issue()
	change, err := users.Add(t.Context(), identity.UserRequest{Name: "alice", Groups: []string{"ops"}, Replace: true, By: "carol"})
	if err != nil || !change.Changed || len(change.Ended) != 2 {
		t.Fatalf("other groups: %+v, %v", change, err)
	}
	check("a change of groups")
	if _, err := users.Add(t.Context(), identity.UserRequest{Name: "alice", Groups: []string{"dev"}, Replace: true}); err != nil {
		t.Fatal(err)
	}
	check("the same groups as before")
	issue()
	gone, err := users.Remove(t.Context(), "alice", "carol")
	if err != nil || len(gone) != 2 || gone[0].Revoked == nil || gone[0].Revoked.By != "carol" {
		t.Fatalf("removed: %+v, %v", gone, err)
	}
	check("a removal")
	if _, err := ask(t, m.Store, identity.ClientRequest{User: "alice"}); !errors.Is(err, fault.NotFound) {
		t.Errorf("a certificate of nobody: %v", err)
	}
	if _, err := users.Remove(t.Context(), "alice", "carol"); !errors.Is(err, fault.NotFound) {
		t.Errorf("removed again: %v", err)
	}
	mustAdd(t, m.Store, "alice", "dev")
	check("another user of that name")
}

// TestRemovalThatDiesHalfWay: the record of the user decides, and the list is brought in line
// when the removal is repeated.
func TestRemovalThatDiesHalfWay(t *testing.T) {
	m := identitytest.NewMesh(t)
	users := identity.NewUsers(m.Store)
	mustAdd(t, m.Store, "alice")
	p := mustAsk(t, m.Store, identity.ClientRequest{User: "alice"})
	m.Store.AfterCommit = func(raftstore.Txn) error {
		m.Store.BeforeCommit = func(raftstore.Txn) error { return raftstore.ErrNoLeader }
		return nil
	}
	if _, err := users.Remove(t.Context(), "alice", "root"); !errors.Is(err, raftstore.ErrNoLeader) || !strings.Contains(err.Error(), "are refused from now on") {
		t.Errorf("without a leader after the first step: %v", err)
	}
	m.Store.AfterCommit, m.Store.BeforeCommit = nil, nil
	mustJudge(t, m.Store, "after half a removal", p.cert, false)
	if ended, err := users.Remove(t.Context(), "alice", "root"); err != nil || len(ended) != 1 {
		t.Errorf("repeated: %+v, %v", ended, err)
	}
}

// TestRemovalMeetsIssue: a user who is removed while a certificate of his is made gets none.
func TestRemovalMeetsIssue(t *testing.T) {
	m := identitytest.NewMesh(t)
	mustAdd(t, m.Store, "alice")
	for _, what := range []string{"by-root", "renewed"} {
		request := identity.ClientRequest{User: "alice"}
		if what == "renewed" {
			request = identity.ClientRequest{From: mustAsk(t, m.Store, request).rec.KeyHash}
		}
		m.Store.BeforeCommit = func(raftstore.Txn) error {
			m.Store.BeforeCommit = nil
			_, err := identity.NewUsers(m.Store).Add(context.Background(), identity.UserRequest{Name: "alice", Groups: []string{what}, Replace: true})
			return err
		}
		if _, err := ask(t, m.Store, request); !errors.Is(err, fault.Conflict) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestWhoGetsWhoseCertificate(t *testing.T) {
	m := identitytest.NewMesh(t)
	mustAdd(t, m.Store, "alice", "dev")
	mustAdd(t, m.Store, "bob")
	ada := mustAsk(t, m.Store, identity.ClientRequest{User: "ada", Administrator: true})
	alice := mustAsk(t, m.Store, identity.ClientRequest{User: "alice"})
	for _, test := range []struct {
		what, user string
		from       string
		admin      bool
		code       fault.Code // empty: he gets it
	}{
		{"root for nobody", "zoe", "", false, fault.NotFound},
		{"root for an administrator", "zoe", "", true, ""},
		{"root for the common administrator", identity.AdminName, "", false, ""},
		{"root for an administrator in the name of a user", "alice", "", true, fault.Conflict},
		{"an administrator for a user", "bob", ada.rec.KeyHash, false, ""},
		{"an administrator for nobody", "eve", ada.rec.KeyHash, false, fault.NotFound},
		{"an administrator for another administrator", "eve", ada.rec.KeyHash, true, fault.Forbidden},
		{"an administrator for the common one", identity.AdminName, ada.rec.KeyHash, false, fault.Forbidden},
		{"an administrator for himself", "ada", ada.rec.KeyHash, false, ""},
		{"a user for himself", "alice", alice.rec.KeyHash, false, ""},
		{"a user for another", "bob", alice.rec.KeyHash, false, fault.Forbidden},
		{"a user for an administrator", "ada", alice.rec.KeyHash, false, fault.Forbidden},
		{"a user who wants to be one", "", alice.rec.KeyHash, true, fault.Forbidden},
		{"a user who wants to be one in another name", "zoe", alice.rec.KeyHash, true, fault.Forbidden},
		{"who is not listed", "bob", strings.Repeat("0a", 32), false, fault.Forbidden},
	} {
		p, err := ask(t, m.Store, identity.ClientRequest{User: test.user, From: test.from, Administrator: test.admin})
		if test.code == "" && err != nil || test.code != "" && (err == nil || fault.CodeOf(err) != test.code) {
			t.Errorf("%s: %v", test.what, err)
		}
		if test.what == "an administrator for a user" && err == nil && (p.rec.IssuedBy != "ada" || p.rec.RenewedFrom != "" || len(p.cert.Subject.Organization) > 0) {
			t.Errorf("%s: %+v, %s", test.what, p.rec, p.cert.Subject)
		}
	}
}

// TestNamesOfUsersAndAdministrators: a name is either a user's or an administrator's.
func TestNamesOfUsersAndAdministrators(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := identitytest.NewMesh(t)
		users := identity.NewUsers(m.Store)
		mustAsk(t, m.Store, identity.ClientRequest{User: "ada", Administrator: true, TTL: time.Hour})
		if _, err := users.Add(t.Context(), identity.UserRequest{Name: "ada"}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "virtmesh cert revoke ada") {
			t.Errorf("while an administrator has the name: %v", err)
		}
		time.Sleep(2 * time.Hour)
		mustAdd(t, m.Store, "ada")
		// A certificate that was listed at the same moment is worth nothing.
		m.Store.BeforeCommit = func(raftstore.Txn) error {
			m.Store.BeforeCommit = nil
			mustAdd(t, m.Store, "bea")
			return nil
		}
		if _, err := ask(t, m.Store, identity.ClientRequest{User: "bea", Administrator: true}); !errors.Is(err, fault.Conflict) {
			t.Errorf("an administrator in the name of a new user: %v", err)
		}
	})
}

// TestSignerGoesByTheRecordOfTheUser: any host can write the records, and what a voter signs for
// it is still no more than a user can have, and nothing for a user who is not there.
func TestSignerGoesByTheRecordOfTheUser(t *testing.T) {
	m := identitytest.NewMesh(t)
	id := mustAdd(t, m.Store, "alice", "dev").User.ID
	put := func(key string, value any) raftstore.Op {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		return raftstore.Op{Key: key, Value: data}
	}
	expires := time.Now().Add(time.Hour)
	for what, c := range map[string]struct {
		client identity.ClientRecord
		user   *identity.UserRecord
		says   string
	}{
		"of a user who is none":            {identity.ClientRecord{User: "bob", UserID: id, Expires: expires}, nil, "no user"},
		"of a user as he was":              {identity.ClientRecord{User: "alice", UserID: "old", Expires: expires}, nil, "were changed"},
		"of an administrator in the name":  {identity.ClientRecord{User: "alice", Expires: expires}, nil, "is a user of the mesh"},
		"of a user among administrators":   {identity.ClientRecord{User: "eve", UserID: "1", Expires: expires}, &identity.UserRecord{Name: "eve", ID: "1", Groups: []string{"system:masters"}}, "spoilt"},
		"of a user who would be a host":    {identity.ClientRecord{User: "system:node:host1", UserID: "1", Expires: expires}, &identity.UserRecord{ID: "1"}, "spoilt"},
		"of a user who would be a program": {identity.ClientRecord{User: "system:serviceaccount:a:b", UserID: "1", Expires: expires}, &identity.UserRecord{ID: "1"}, "spoilt"},
	} {
		key := newKey(t)
		request, err := identity.NewClientSigning(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		pin, err := identity.PinOfKey(&key.PublicKey)
		if err != nil {
			t.Fatal(err)
		}
		ops := []raftstore.Op{put(identity.ClientsPrefix+identity.KeyHash(pin), c.client)}
		if c.user != nil {
			ops = append(ops, put(identity.UsersPrefix+c.client.User, c.user))
		}
		if _, err := m.Store.Commit(t.Context(), raftstore.Txn{Ops: ops}); err != nil {
			t.Fatal(err)
		}
		if _, err := identity.NewSigner(m.Store, 0).SignClient(t.Context(), request); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("a certificate %s: %v", what, err)
		}
	}
}

// TestOtherCertificateForAListedKey: a user who gets hold of the CA's key makes himself no
// administrator with the key that is listed as his.
func TestOtherCertificateForAListedKey(t *testing.T) {
	m := identitytest.NewMesh(t)
	mustAdd(t, m.Store, "alice", "dev")
	key := newKey(t)
	if _, _, _, err := identity.NewSigner(m.Store, 0).IssueClient(t.Context(), identity.ClientRequest{Key: &key.PublicKey, User: "alice", Host: "host1"}); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		name     string
		groups   []string
		accepted bool
	}{
		"as it is listed": {"alice", []string{"dev"}, true}, "among administrators": {"alice", []string{"system:masters"}, false}, "in another group": {"alice", []string{"dev", "ops"}, false},
		"of no group": {"alice", nil, false}, "in another name": {"bob", []string{"dev"}, false},
	} {
		chain, err := m.CA.IssueClient(&key.PublicKey, c.name, c.groups, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := identity.ParseCertificates(chain)
		if err != nil {
			t.Fatal(err)
		}
		mustJudge(t, m.Store, what, certs[0], c.accepted)
	}
}
