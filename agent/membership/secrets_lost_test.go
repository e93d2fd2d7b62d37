package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A voter that has not fetched all keys makes no bundle: it would replace the note of a complete
// one. While a bundle has the new key and a voter does not, the status says so.
func TestAVoterWithoutAKey(t *testing.T) {
	t.Parallel()
	first, _, _ := sealing(t)
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	if status, err := first.SecretKeys(t.Context()); err != nil || status.Waiting == "" || status.Bundled || len(status.Lacking)+len(status.Silent) > 0 {
		t.Errorf("before there is a bundle: %+v, %v", status, err)
	}
	makeBundle(t, first)
	if err := first.identity.RetainSecretKeys(first.identity.SecretKeyIDs()[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := first.KeyringBundle(t.Context()); !errors.Is(err, fault.Unavailable) || !strings.Contains(fault.Of(err).Remedy, "try again in a few seconds") {
		t.Errorf("a bundle without the new key: %v", err)
	}
	if status, err := first.SecretKeys(t.Context()); err != nil || !status.Bundled || !slices.Equal(status.Lacking, []string{"host1"}) {
		t.Errorf("with a bundle: %+v, %v", status, err)
	}
	if status, err := first.keyringStatus(t.Context()); err != nil || !status.SecretKeyWaits || !status.SecretKeyBundled {
		t.Errorf("the keyring: %+v, %v", status, err)
	}
}

// An older key that no host holds any more is forgotten once nothing is encrypted with it: the
// mesh would encrypt nothing else, and use no other key, for as long as it is listed.
func TestALostOldKeyIsForgotten(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	putSecret(t, first, "a", "the password of a")
	stepSecrets(t, first, sealObjects)
	kind := objects.KindFor[*corev1.Secret]()
	key := kind.StoreKey(objects.Key{Namespace: "ns", Name: "a"})
	old, _, err := first.store.Get(t.Context(), key, raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	makeBundle(t, first)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, useSecretKey)
	// What is in the state is encrypted with the first key, which then is lost.
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Value: old.Expand().Value}}}); err != nil {
		t.Fatal(err)
	}
	active := first.identity.SecretKeyIDs()[1]
	if err := first.identity.RetainSecretKeys(active); err != nil {
		t.Fatal(err)
	}
	raftstoretest.Eventually(t, func() error {
		if act, err := first.secretsKeeper().step(t.Context()); act != fetchSecretKeys || err == nil || !strings.Contains(err.Error(), "which encrypts "+key) {
			return fmt.Errorf("%s, %v", act, err)
		}
		return nil
	})
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key, Delete: true}}}); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, fetchSecretKeys)
	stepSecrets(t, first, sealObjects)
	if keys, _, err := identity.ReadSecretKeys(t.Context(), first.store, localRead); err != nil || !slices.Equal(keys.IDs(), []string{active}) {
		t.Errorf("listed: %q, %v; want %q", keys.IDs(), err, active)
	}
	if err := second.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
}

// A key that nothing is encrypted with yet, and that is gone with the host that made it, is
// replaced by another one.
func TestALostNewKeyIsReplaced(t *testing.T) {
	t.Parallel()
	first, _ := pair(t)
	stepSecrets(t, first, makeSecretKey)
	lost := first.identity.SecretKeyIDs()
	if err := first.identity.RetainSecretKeys(); err != nil {
		t.Fatal(err)
	}
	raftstoretest.Eventually(t, func() error {
		if act, err := first.secretsKeeper().step(t.Context()); err != nil {
			return fmt.Errorf("%s: %w", act, err)
		}
		if keys := first.identity.SecretKeyIDs(); len(keys) != 1 || slices.Equal(keys, lost) {
			return fmt.Errorf("host1 holds %q", keys)
		}
		return nil
	})
}

// behind is a store whose copy has an older record of the keys for Secrets than the mesh.
type behind struct {
	identity.Store
	keys identity.SecretKeysRecord
}

func (b behind) Get(ctx context.Context, key string, opts raftstore.ReadOptions) (raftstore.Record, uint64, error) {
	rec, revision, err := b.Store.Get(ctx, key, opts)
	if err == nil && key == identity.KeySecretKeys && opts.Consistency == raftstore.Local {
		var value []byte
		if value, err = json.Marshal(b.keys); err == nil {
			rec = rec.WithValue(value)
		}
	}
	return rec, revision, err
}

// A host whose copy of the state is behind does not delete the key that it does not find there:
// it may be the newest one, which nobody else has yet.
func TestAKeyIsNotDroppedByAnOldCopy(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	old, _, err := identity.ReadSecretKeys(t.Context(), first.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	both := first.identity.SecretKeyIDs()
	late := first.secretsKeeper()
	late.store = behind{first.records, old}
	if act, err := late.step(t.Context()); act != dropSecretKeys || err != nil {
		t.Errorf("%s, %v", act, err)
	}
	if held := first.identity.SecretKeyIDs(); !slices.Equal(held, both) {
		t.Errorf("host1 holds %q, and the mesh has %q", held, both)
	}
	// host2 voted, and has the new key alone.
	if err := second.identity.KeepSecretKeys(first.identity.SecretKeys()...); err != nil {
		t.Fatal(err)
	}
	if err := first.identity.RetainSecretKeys(both[0]); err != nil {
		t.Fatal(err)
	}
	late = second.secretsKeeper()
	late.store = behind{second.records, old}
	if act, err := late.step(t.Context()); act != dropSecretKeys || err == nil {
		t.Errorf("%s, %v", act, err)
	}
	if held := second.identity.SecretKeyIDs(); !slices.Equal(held, both) {
		t.Errorf("host2 holds %q, and host1 lacks one of %q", held, both)
	}
}

// A key that is lost, and that nothing is encrypted with yet, does not keep Secrets from being
// encrypted with the one that is in use, whether all voters answer or not.
func TestALostNewKeyDoesNotHinderTheEncryption(t *testing.T) {
	t.Parallel()
	first, _, _ := sealing(t)
	putSecret(t, first, "a", "the password of a")
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	if err := first.identity.RetainSecretKeys(first.identity.SecretKeyIDs()[0]); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, fetchSecretKeys)
	stepSecrets(t, first, makeSecretKey)
}

// Of several keys that a host has and the mesh does not know yet, as after the restore of a
// state from before them, the newest one is used: the others were replaced.
func TestTheNewestKeyIsUsedAgain(t *testing.T) {
	t.Parallel()
	first, _ := pair(t)
	var newest string
	for range 2 {
		key, err := sealed.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		if err := first.identity.KeepSecretKeys(key); err != nil {
			t.Fatal(err)
		}
		newest = key.ID()
	}
	stepSecrets(t, first, makeSecretKey)
	if keys, _, err := identity.ReadSecretKeys(t.Context(), first.store, localRead); err != nil || keys.Pending() != newest {
		t.Errorf("the mesh uses %q, %v; want %q", keys.IDs(), err, newest)
	}
}

// A recovery needs each key that something is encrypted with, not only the active one, and no
// other one.
func TestRecoverSecretsOfOlderKeys(t *testing.T) {
	t.Parallel()
	first, second, old := sealing(t)
	putSecret(t, first, "a", "the password of a")
	stepSecrets(t, first, sealObjects)
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	bundle := makeBundle(t, first)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, useSecretKey)
	sameCopy(t, first, second)
	shutdown(first)
	shutdown(second)
	for name, c := range map[string]struct {
		keys  [][]byte
		lacks []byte
	}{
		"the older key": {bundle.SecretKeys[1:], bundle.SecretKeys[0]},
		"the new key":   {old.SecretKeys, bundle.SecretKeys[1]},
	} {
		partial := bundle
		partial.SecretKeys = c.keys
		lacking := identity.Bundle{SecretKeys: [][]byte{c.lacks}}
		id, err := lacking.SecretKeyIDs()
		if err != nil {
			t.Fatal(err)
		}
		config := second.config
		config.StateDir = t.TempDir()
		if err := os.CopyFS(config.StateDir, os.DirFS(second.config.StateDir)); err != nil {
			t.Fatal(err)
		}
		if _, err := Recover(t.Context(), config, Recovery{Bundle: &partial}); !errors.Is(err, fault.Conflict) || !strings.Contains(err.Error(), id[0]) {
			t.Errorf("recovered without %s: %v", name, err)
		}
	}
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
}
