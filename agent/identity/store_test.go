package identity_test

import (
	"crypto/ecdsa"
	"errors"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// TestStores tells one story on the store of the tests and on the real one: both must
// judge it alike, or the other tests of this package prove nothing.
func TestStores(t *testing.T) {
	stores := map[string]func(testing.TB) identity.Store{
		"fake": func(testing.TB) identity.Store { return identitytest.NewStore() },
		"raft": func(tb testing.TB) identity.Store { return raftstoretest.New(tb) },
	}
	for name, open := range stores {
		t.Run(name, func(t *testing.T) { storeStory(t, open(t)) })
	}
}

func storeStory(t *testing.T, store identity.Store) {
	ctx := t.Context()
	tokens, hosts, signer := identity.NewTokens(store), identity.NewHosts(store), identity.NewSigner(store, 0)
	if _, _, err := tokens.Create(ctx, 0); !errors.Is(err, identity.ErrNotSeeded) {
		t.Fatalf("a token before the seed: %v", err)
	}
	dir, _ := initMesh(t)
	for range 2 { // the second time as after a crash between the commit and the marker
		id := open(t, dir)
		if err := id.Seed(ctx, store, "v1", 1); err != nil {
			t.Fatal(err)
		}
	}
	token, _, err := tokens.Create(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	for range 2 { // the second time as after a lost answer
		if _, err := signer.Admit(ctx, candidate(token, key, "host2")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := signer.Admit(ctx, candidate(token, newKey(t), "host3")); !errors.Is(err, fault.TokenUsed) {
		t.Errorf("token used twice: %v", err)
	}
	fresh, _, err := tokens.Create(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Admit(ctx, candidate(fresh, newKey(t), "host1")); !errors.Is(err, fault.HostTaken) {
		t.Errorf("name taken: %v", err)
	}
	if list, err := hosts.List(ctx, raftstore.ReadOptions{}); err != nil || len(list) != 2 || list[0].Name != "host1" {
		t.Errorf("hosts %+v, %v", list, err)
	}
	if err := hosts.Update(ctx, nodeIn(t, store, "host2"), func(r *identity.HostRecord) { r.Version = "v2" }); err != nil {
		t.Error(err)
	}
	csr, err := identity.NewCSR(key, "host2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.RenewHost(ctx, nodeIn(t, store, "host2"), csr); err != nil {
		t.Error(err)
	}
	leaveStory(t, store, key, fresh)
}

// leaveStory goes on: host2 leaves, comes back, is expelled and comes back again.
func leaveStory(t *testing.T, store identity.Store, key *ecdsa.PrivateKey, fresh identity.Token) {
	ctx := t.Context()
	tokens, hosts, signer := identity.NewTokens(store), identity.NewHosts(store), identity.NewSigner(store, 0)
	csr, err := identity.NewCSR(key, "host2")
	if err != nil {
		t.Fatal(err)
	}
	left := nodeIn(t, store, "host2")
	if err := hosts.Remove(ctx, "host2"); err != nil {
		t.Error(err)
	}
	if _, err := signer.RenewHost(ctx, left, csr); !errors.Is(err, fault.NoHost) {
		t.Errorf("renew after the removal: %v", err)
	}
	if err := hosts.Admit(left, identity.Pin{}); err != nil {
		t.Errorf("a host that is leaving is barred: %v", err)
	}
	again, _, err := tokens.Create(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signer.Admit(ctx, candidate(again, key, "host2")); err != nil {
		t.Fatal(err)
	}
	if err := hosts.Admit(left, identity.Pin{}); !errors.Is(err, fault.Expelled) {
		t.Errorf("the machine before this one is admitted: %v", err)
	}
	expelled := nodeIn(t, store, "host2")
	if err := hosts.Expel(ctx, "host2"); err != nil {
		t.Fatal(err)
	}
	if err := hosts.Admit(expelled, identity.Pin{}); !errors.Is(err, fault.Expelled) {
		t.Errorf("an expelled host is admitted: %v", err)
	}
	if err := hosts.Expel(ctx, "host2"); !errors.Is(err, fault.NoHost) {
		t.Errorf("expelled twice: %v", err)
	}
	if _, err := signer.Admit(ctx, candidate(fresh, newKey(t), "host2")); err != nil {
		t.Fatal(err)
	}
	if err := hosts.Admit(expelled, identity.Pin{}); !errors.Is(err, fault.Expelled) {
		t.Errorf("an expelled machine is admitted once its name is taken: %v", err)
	}
	if err := hosts.Admit(nodeIn(t, store, "host2"), identity.Pin{}); err != nil {
		t.Errorf("a host that joined anew is barred: %v", err)
	}
	if err := tokens.Revoke(ctx, fresh.ID); err != nil {
		t.Error(err)
	}
	if list, err := tokens.List(ctx); err != nil || len(list) != 2 || list[0].UsedBy == nil {
		t.Errorf("tokens %+v, %v", list, err)
	}
}
