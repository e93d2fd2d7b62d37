package identity_test

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	"virtmesh/agent/identity"
	"virtmesh/agent/identity/identitytest"
	"virtmesh/raftstore"
)

// storeNewer adds to a record what only a newer version writes.
func storeNewer(t *testing.T, store identity.Store, key string) {
	t.Helper()
	rec, _, err := store.Get(t.Context(), key, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(rec.Value, &v); err != nil {
		t.Fatal(err)
	}
	v["newer"] = "kept"
	value, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: value}}}); err != nil {
		t.Fatal(err)
	}
}

// TestOlderVersionKeepsRecordsOfANewerOne: a host of an older version uses up a token,
// admits a host again and changes its record. It drops nothing that a newer one wrote.
func TestOlderVersionKeepsRecordsOfANewerOne(t *testing.T) {
	store := identitytest.NewStore()
	tokens, hosts, signer := identity.NewTokens(store), identity.NewHosts(store), identity.NewSigner(store, 0)
	dir, _ := initMesh(t)
	if err := open(t, dir).Seed(t.Context(), store, "v1", 1); err != nil {
		t.Fatal(err)
	}
	token, _, err := tokens.Create(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	check := func(after, key, alsoHas string) {
		t.Helper()
		rec, _, err := store.Get(context.Background(), key, raftstore.ReadOptions{})
		if err != nil || !bytes.Contains(rec.Value, []byte(`"newer":"kept"`)) || !bytes.Contains(rec.Value, []byte(alsoHas)) {
			t.Errorf("after %s, %s is %s (%v)", after, key, rec.Value, err)
		}
	}
	storeNewer(t, store, identity.TokenKey(token.ID))
	c := candidate(token, newKey(t), "host2")
	if _, err := signer.Admit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	check("an admission", identity.TokenKey(token.ID), `"usedBy":{`)
	storeNewer(t, store, identity.HostKey("host2"))
	c.Host.Version = "v7"
	if _, err := signer.Admit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	check("a repeated admission", identity.HostKey("host2"), `"version":"v7"`)
	if err := hosts.Update(t.Context(), nodeIn(t, store, "host2"), func(r *identity.HostRecord) { r.Version, r.FeatureLevel = "v8", 0 }); err != nil {
		t.Fatal(err)
	}
	check("an update", identity.HostKey("host2"), `"version":"v8"`)
}
