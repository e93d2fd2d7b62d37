package identity_test

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

type mesh struct {
	*identitytest.Mesh
	signer *identity.Signer
	tokens *identity.Tokens
	hosts  *identity.Hosts
}

func newMesh(t *testing.T) mesh {
	m := identitytest.NewMesh(t)
	return mesh{
		Mesh: m, signer: identity.NewSigner(m.Store, 0),
		tokens: identity.NewTokens(m.Store), hosts: identity.NewHosts(m.Store),
	}
}

func (m mesh) token(t *testing.T) identity.Token {
	t.Helper()
	token, _, err := m.tokens.Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// node returns who bears a name now.
func (m mesh) node(t *testing.T, name string) identity.Node {
	t.Helper()
	return nodeIn(t, m.Store, name)
}

func nodeIn(t *testing.T, store identity.Store, name string) identity.Node {
	t.Helper()
	rec, err := identity.NewHosts(store).Get(t.Context(), name, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rec.Node()
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := identity.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func candidate(token identity.Token, key *ecdsa.PrivateKey, host string) identity.Candidate {
	return identity.Candidate{
		TokenID: token.ID, Secret: token.Secret[:], Key: &key.PublicKey,
		Host: identity.HostRecord{Name: host, MeshAddress: "10.0.0.2:7443", GossipAddress: "10.0.0.2:7946"},
	}
}

func TestSeed(t *testing.T) {
	m := newMesh(t)
	if m.First.Founder() || open(t, m.First.Dir()).Founder() {
		t.Error("still a founder after the seed")
	}
	rec, err := m.hosts.Get(t.Context(), "host1", raftstore.ReadOptions{})
	if err != nil || rec.FeatureLevel != 1 || rec.TokenID != "" {
		t.Errorf("record %+v, %v", rec, err)
	}
	pin, err := identity.CAPin(t.Context(), m.Store)
	if err != nil || pin != m.CA.Pin() {
		t.Errorf("the CA in the store: %v", err)
	}
}

func TestSeedAgain(t *testing.T) {
	dir, _ := initMesh(t)
	store := identitytest.NewStore()
	store.AfterCommit = func(raftstore.Txn) error { return raftstore.ErrUnknownOutcome }
	id := open(t, dir)
	if err := id.Seed(t.Context(), store, "", 0); !errors.Is(err, raftstore.ErrUnknownOutcome) {
		t.Fatalf("seed: %v", err)
	}
	if !id.Founder() {
		t.Fatal("no founder any more although nobody knows whether the store has the CA")
	}
	store.AfterCommit = nil
	if err := open(t, dir).Seed(t.Context(), store, "", 0); err != nil {
		t.Fatalf("seed after a restart: %v", err)
	}
	if open(t, dir).Founder() {
		t.Error("still a founder after the second seed")
	}

	other, _ := initMesh(t)
	if err := open(t, other).Seed(t.Context(), store, "", 0); err == nil || !open(t, other).Founder() {
		t.Errorf("a second mesh in the same store: %v", err)
	}
}

func TestAdmit(t *testing.T) {
	m := newMesh(t)
	token := m.token(t)
	got, err := m.signer.Admit(t.Context(), candidate(token, newKey(t), "host2"))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := identity.ParseCertificates(got.Chain)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := m.hosts.Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if node, err := identity.NodeOf(certs[0]); node != rec.Node() || err != nil {
		t.Errorf("certificate of %s, %v; the record is of %s", node, err, rec.Node())
	}
	if err := certs[0].VerifyHostname("10.0.0.2"); err != nil {
		t.Error(err)
	}
	if got.MeshID != m.First.MeshID() || len(got.GossipKeys) != 1 {
		t.Errorf("mesh %q, %d gossip keys", got.MeshID, len(got.GossipKeys))
	}
	if len(got.Members) != 1 || got.Members[0].Name != "host1" {
		t.Errorf("members %+v", got.Members)
	}
	list, err := m.tokens.List(t.Context())
	if err != nil || len(list) != 1 || list[0].UsedBy == nil || list[0].UsedBy.Host != "host2" {
		t.Errorf("tokens %+v, %v", list, err)
	}
}

func TestAdmitRefuses(t *testing.T) {
	m := newMesh(t)
	used := m.token(t)
	if _, err := m.signer.Admit(t.Context(), candidate(used, newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	revoked := m.token(t)
	if err := m.tokens.Revoke(t.Context(), revoked.ID); err != nil {
		t.Fatal(err)
	}
	wrong := m.token(t)
	wrong.Secret[3] ^= 1
	strange := identity.NewToken(m.CA.Pin())
	badAddress := candidate(m.token(t), newKey(t), "host5")
	badAddress.Host.GossipAddress = "nowhere"

	commits := m.Store.Commits()
	for name, c := range map[string]struct {
		c    identity.Candidate
		want func(error) bool
	}{
		"wrong secret":        {candidate(wrong, newKey(t), "host3"), is(fault.TokenInvalid)},
		"unknown":             {candidate(strange, newKey(t), "host3"), is(fault.TokenInvalid)},
		"revoked":             {candidate(revoked, newKey(t), "host3"), is(fault.TokenInvalid)},
		"path as id":          {candidate(identity.Token{ID: "../ca"}, newKey(t), "host3"), is(fault.TokenInvalid)},
		"used, other host":    {candidate(used, newKey(t), "host3"), is(fault.TokenUsed)},
		"used, other key":     {candidate(used, newKey(t), "host2"), is(fault.TokenUsed)},
		"host taken":          {candidate(m.token(t), newKey(t), "host1"), is(fault.HostTaken)},
		"taken, wrong secret": {candidate(wrong, newKey(t), "host1"), is(fault.TokenInvalid)},
		"malformed address":   {badAddress, is(fault.Invalid)},
	} {
		commits := m.Store.Commits()
		if _, err := m.signer.Admit(t.Context(), c.c); !c.want(err) {
			t.Errorf("%s: %v", name, err)
		}
		if m.Store.Commits() != commits {
			t.Errorf("%s: something was written", name)
		}
	}
	if m.Store.Commits() < commits {
		t.Fatal("the store lost commits")
	}
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

func TestTokenExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMesh(t)
		late, early := m.token(t), m.token(t)
		key := newKey(t)
		time.Sleep(identity.DefaultTokenTTL - time.Second)
		if _, err := m.signer.Admit(t.Context(), candidate(early, key, "host2")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if _, err := m.signer.Admit(t.Context(), candidate(late, newKey(t), "host3")); !errors.Is(err, fault.TokenExpired) {
			t.Errorf("after its end: %v", err)
		}
		// Used in time, the answer lost: asking again works past the end of the token, for
		// a while.
		if _, err := m.signer.Admit(t.Context(), candidate(early, key, "host2")); err != nil {
			t.Errorf("asking again: %v", err)
		}
		time.Sleep(identity.RetryWindow)
		if _, err := m.signer.Admit(t.Context(), candidate(early, key, "host2")); !errors.Is(err, fault.TokenUsed) {
			t.Errorf("asking again much later: %v", err)
		}
		if n, err := m.tokens.Prune(t.Context(), nil); n != 2 || err != nil {
			t.Errorf("pruned %d, %v", n, err)
		}
		if list, err := m.tokens.List(t.Context()); len(list) != 0 || err != nil {
			t.Errorf("left %v, %v", list, err)
		}
	})
}

// A host that has measured for how long a token exists does not ask the clock of the host that
// made it.
func TestTokensAreJudgedByTheirMeasuredAge(t *testing.T) {
	m := newMesh(t)
	for _, c := range []struct {
		clock, age time.Duration // by how much the clock of the maker is off, and the token's age
		want       error
	}{
		{-2 * time.Hour, time.Minute, nil},
		{2 * time.Hour, 61 * time.Minute, fault.TokenExpired},
		{2 * time.Hour, 59 * time.Minute, nil},
	} {
		token := m.token(t)
		shiftToken(t, m.Store, token.ID, c.clock)
		measured := func(identity.TokenRecord) time.Duration { return c.age }
		host := fmt.Sprintf("host-%d-%d", int(c.clock.Hours())+5, int(c.age.Minutes()))
		if n, err := m.tokens.Prune(t.Context(), measured); n != 0 || err != nil {
			t.Errorf("pruned %d, %v", n, err)
		}
		if _, err := m.signer.WithTokenAges(measured).Admit(t.Context(), candidate(token, newKey(t), host)); !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
			t.Errorf("a clock that is off by %s, %s after the token was made: %v, want %v", c.clock, c.age, err, c.want)
		}
		if err := m.tokens.Revoke(t.Context(), token.ID); err != nil {
			t.Fatal(err)
		}
	}
}

// shiftToken makes the record of a token one that a host wrote whose clock is off.
func shiftToken(t *testing.T, store identity.Store, id string, off time.Duration) {
	t.Helper()
	stored, _, err := store.Get(t.Context(), identity.TokenKey(id), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var rec identity.TokenRecord
	if err := json.Unmarshal(stored.Value, &rec); err != nil {
		t.Fatal(err)
	}
	rec.Created, rec.Expires = rec.Created.Add(off), rec.Expires.Add(off)
	value, err := json.Marshal(rec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: stored.Key, Value: value}}}); err != nil {
		t.Fatal(err)
	}
}

func TestTokenTTL(t *testing.T) {
	m := newMesh(t)
	for _, ttl := range []time.Duration{-1, identity.MaxTokenTTL + 1} {
		if _, _, err := m.tokens.Create(t.Context(), ttl); err == nil {
			t.Errorf("a token for %v", ttl)
		}
	}
	_, rec, err := m.tokens.Create(t.Context(), 5*time.Minute)
	if err != nil || rec.Expires.Sub(rec.Created) != 5*time.Minute {
		t.Errorf("record %+v, %v", rec, err)
	}
	if err := m.tokens.Revoke(t.Context(), "aaaaaaaa"); !errors.Is(err, fault.TokenInvalid) {
		t.Errorf("revoke an unknown token: %v", err)
	}
	if err := m.tokens.Revoke(t.Context(), "../hosts/host1"); !errors.Is(err, fault.TokenInvalid) {
		t.Errorf("revoke a path: %v", err)
	}
}

func TestPruneKeepsUsableTokens(t *testing.T) {
	m := newMesh(t)
	m.token(t)
	if n, err := m.tokens.Prune(t.Context(), nil); n != 0 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
}

func TestStoreHoldsNoSecret(t *testing.T) {
	m := newMesh(t)
	token := m.token(t)
	rec, _, err := m.Store.Get(t.Context(), identity.TokenKey(token.ID), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if secret := strings.Split(token.Encode(), ".")[2]; strings.Contains(string(rec.Value), secret) {
		t.Error("the secret is in the store")
	}
}

func TestOneTokenOneHost(t *testing.T) {
	m := newMesh(t)
	token := m.token(t)
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		c := candidate(token, newKey(t), fmt.Sprintf("host%d", i+2))
		wg.Go(func() { _, errs[i] = m.signer.Admit(context.Background(), c) })
	}
	wg.Wait()
	errs = slices.DeleteFunc(errs, is(fault.TokenUsed))
	if len(errs) != 1 || errs[0] != nil {
		t.Errorf("besides the refused: %v", errs)
	}
	if hosts, err := m.hosts.List(t.Context(), raftstore.ReadOptions{}); len(hosts) != 2 || err != nil {
		t.Errorf("hosts %v, %v", hosts, err)
	}
}

func TestAdmitAgainAfterLostAnswer(t *testing.T) {
	m := newMesh(t)
	token, key := m.token(t), newKey(t)
	m.Store.AfterCommit = func(raftstore.Txn) error { return raftstore.ErrUnknownOutcome }
	if _, err := m.signer.Admit(t.Context(), candidate(token, key, "host2")); !errors.Is(err, raftstore.ErrUnknownOutcome) {
		t.Fatalf("lost answer: %v", err)
	}
	m.Store.AfterCommit = nil
	before := m.node(t, "host2")
	again := candidate(token, key, "host2")
	again.Host.MeshAddress = "10.0.0.9:7443"
	got, err := m.signer.Admit(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	certs, _ := identity.ParseCertificates(got.Chain)
	if err := certs[0].VerifyHostname("10.0.0.9"); err != nil {
		t.Errorf("the corrected address is not in the certificate: %v", err)
	}
	rec, err := m.hosts.Get(t.Context(), "host2", raftstore.ReadOptions{})
	if err != nil || rec.MeshAddress != "10.0.0.9:7443" || rec.TokenID != token.ID || rec.Joined.IsZero() || rec.Node() != before {
		t.Errorf("record %+v, %v", rec, err)
	}
}

func TestRemovedHost(t *testing.T) {
	m := newMesh(t)
	token, key := m.token(t), newKey(t)
	if _, err := m.signer.Admit(t.Context(), candidate(token, key, "host2")); err != nil {
		t.Fatal(err)
	}
	node := m.node(t, "host2")
	if err := m.hosts.Remove(t.Context(), "host2"); err != nil {
		t.Fatal(err)
	}
	if err := m.hosts.Remove(t.Context(), "host2"); !errors.Is(err, fault.NoHost) {
		t.Errorf("removed twice: %v", err)
	}
	csr, _ := identity.NewCSR(key, "host2")
	if _, err := m.signer.RenewHost(t.Context(), node, csr); !errors.Is(err, fault.NoHost) {
		t.Errorf("a removed host renews: %v", err)
	}
	if _, err := m.signer.Admit(t.Context(), candidate(token, key, "host2")); !errors.Is(err, fault.TokenUsed) {
		t.Errorf("a removed host comes back with its old token: %v", err)
	}
	if _, err := m.signer.Admit(t.Context(), candidate(m.token(t), key, "host2")); err != nil {
		t.Errorf("the name is not free: %v", err)
	}
}

func TestUpdateHost(t *testing.T) {
	m := newMesh(t)
	var calls int
	err := m.hosts.Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) {
		if calls++; calls == 1 { // somebody else is faster once
			other := identity.NewHosts(m.Store)
			if err := other.Update(t.Context(), m.First.Node(), func(r *identity.HostRecord) { r.Version = "2" }); err != nil {
				t.Error(err)
			}
		}
		r.Name, r.ID, r.MeshAddress = "renamed", "other", "10.0.0.7:7443"
	})
	if err != nil || calls != 2 {
		t.Fatalf("%d calls, %v", calls, err)
	}
	rec, err := m.hosts.Get(t.Context(), "host1", raftstore.ReadOptions{})
	if err != nil || rec.Node() != m.First.Node() || rec.MeshAddress != "10.0.0.7:7443" || rec.Version != "2" {
		t.Errorf("record %+v, %v", rec, err)
	}
	bad := func(r *identity.HostRecord) { r.MeshAddress = "" }
	if err := m.hosts.Update(t.Context(), m.First.Node(), bad); err == nil {
		t.Error("an empty address was stored")
	}
}
