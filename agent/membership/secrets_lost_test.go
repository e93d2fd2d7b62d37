package membership

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

// A voter that has not fetched all keys makes no bundle: it would replace the note of a complete
// one. While a bundle has the new key and a voter does not, the status says so.
func TestAVoterWithoutAKey(t *testing.T) {
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
