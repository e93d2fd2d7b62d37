package identity_test

import (
	"errors"
	"strings"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// spoil replaces what is stored under a key by what no version can decode.
func spoil(t *testing.T, store identity.Store, key string) {
	t.Helper()
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: []byte(`{"user":"bob","groups":7,"issued":"never"}`)}}}); err != nil {
		t.Fatal(err)
	}
}

// TestUnreadableCertificates: a record that cannot be read keeps nobody from seeing the others and
// from revoking them; its certificate is refused, and ends for good by the hash of its key.
func TestUnreadableCertificates(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	mustAdd(t, m.Store, "alice")
	mustAdd(t, m.Store, "bob")
	spoilt, other := mustAsk(t, m.Store, identity.ClientRequest{User: "bob"}), mustAsk(t, m.Store, identity.ClientRequest{User: "alice"})
	next := mustAsk(t, m.Store, identity.ClientRequest{From: spoilt.rec.KeyHash})
	spoil(t, m.Store, identity.ClientsPrefix+spoilt.rec.KeyHash)

	clients := identity.NewClients(m.Store)
	recs, err := clients.List(t.Context())
	if err != nil || len(recs) != 3 {
		t.Fatalf("list: %+v, %v", recs, err)
	}
	for _, rec := range recs {
		if bad := rec.KeyHash == spoilt.rec.KeyHash; bad != (rec.Unreadable != nil) || bad && rec.User != "" {
			t.Errorf("listed: %+v", rec)
		}
	}
	for what, cert := range map[string]person{"whose record is unreadable": spoilt, "that was renewed from it": next} {
		if clients.Ended(cert.cert) == nil {
			t.Errorf("a certificate %s is taken", what)
		}
	}
	if pruned, err := clients.Prune(t.Context()); pruned != 0 || err != nil {
		t.Errorf("pruned %d, %v", pruned, err)
	}
	if ended, err := clients.Revoke(t.Context(), "alice", "root"); err != nil || len(ended) != 1 || ended[0].KeyHash != other.rec.KeyHash {
		t.Errorf("revoke another: %+v, %v", ended, err)
	}
	ended, err := clients.Revoke(t.Context(), spoilt.rec.KeyHash[:16], "root")
	if err != nil || len(ended) != 2 || (ended[0].Unreadable != nil) == (ended[1].Unreadable != nil) {
		t.Fatalf("revoke it: %+v, %v", ended, err)
	}
	if recs, err = clients.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		if rec.Unreadable != nil || rec.Revoked == nil {
			t.Errorf("afterwards: %+v", rec)
		}
	}
	mustJudge(t, m.Store, "the one whose record was unreadable", spoilt.cert, false)
	mustJudge(t, m.Store, "the one that was renewed from it", next.cert, false)
}

// TestUnreadableUsers: a user whose record cannot be read is listed, is not taken for somebody who is
// not there, and can be removed.
func TestUnreadableUsers(t *testing.T) {
	t.Parallel()
	m := identitytest.NewMesh(t)
	mustAdd(t, m.Store, "alice")
	mustAdd(t, m.Store, "bob", "dev")
	p := mustAsk(t, m.Store, identity.ClientRequest{User: "bob"})
	spoil(t, m.Store, identity.UsersPrefix+"bob")

	users := identity.NewUsers(m.Store)
	list, err := users.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Unreadable != nil || list[1].Name != "bob" || list[1].Unreadable == nil || list[1].Groups != nil {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if identity.NewClients(m.Store).Ended(p.cert) == nil {
		t.Error("a certificate of a user whose record is unreadable is taken")
	}
	for _, administrator := range []bool{false, true} {
		if made, err := ask(t, m.Store, identity.ClientRequest{User: "bob", Administrator: administrator}); err == nil {
			t.Errorf("a certificate for him: %+v", made.rec)
		}
	}
	if _, err := users.Add(t.Context(), identity.UserRequest{Name: "bob", By: "root"}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), "virtmesh user rm bob") {
		t.Errorf("add him: %v", err)
	}
	if ended, err := users.Remove(t.Context(), "bob", "root"); err != nil || len(ended) != 1 {
		t.Errorf("remove him: %+v, %v", ended, err)
	}
	mustAdd(t, m.Store, "bob")
	mustJudge(t, m.Store, "of the removed user", p.cert, false)
}
