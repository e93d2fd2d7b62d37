package membership

import (
	"errors"
	"testing"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// spoilSecretKeys changes the record of the keys for Secrets, as a voter can, and below level.Access
// any host.
func spoilSecretKeys(t *testing.T, m *Member, change func(keys *identity.SecretKeysRecord)) {
	t.Helper()
	keys, stored, err := identity.ReadSecretKeys(t.Context(), m.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	change(&keys)
	if err := identity.StoreSecretKeys(t.Context(), m.records, stored, keys); err != nil {
		t.Fatal(err)
	}
}

// When the record names a key that it does not hold, nothing is stored in clear, neither a new
// Secret nor an old one, and the leader lets the newest key that it holds encrypt again.
func TestASpoiltRecordDoesNotEndTheEncryption(t *testing.T) {
	t.Parallel()
	first, _, _ := sealing(t)
	putSecret(t, first, "a", "the password of a")
	stepSecrets(t, first, sealObjects)
	spoilSecretKeys(t, first, func(keys *identity.SecretKeysRecord) { keys.Active = "nobody's" })

	var tx objects.Tx
	tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"}, Data: map[string][]byte{"password": []byte("the password of b")}})
	if _, err := tx.Commit(t.Context(), clearStore(first)); !errors.Is(err, fault.Unavailable) {
		t.Errorf("a Secret was written without a key: %v", err)
	}
	stepSecrets(t, first, useSecretKey)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, nothingToSeal)
	putSecret(t, first, "b", "the password of b")
	backup := backupOf(t, first)
	for _, password := range []string{"the password of a", "the password of b"} {
		if showsPassword(backup, password) {
			t.Errorf("the backup shows %s", password)
		}
	}
	mustReadSecret(t, first, "a", "the password of a")
}

// The leader does not take a private key from a host that never voted, and so does not encrypt
// everything with a key of such a host that somebody has written into the record.
func TestAForeignKeyIsNotUsed(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	putSecret(t, first, "a", "the password of a")
	stepSecrets(t, first, sealObjects)
	own, err := sealed.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.identity.KeepSecretKeys(own); err != nil {
		t.Fatal(err)
	}
	spoilSecretKeys(t, first, func(keys *identity.SecretKeysRecord) {
		keys.Keys = append(keys.Keys, identity.NewSecretKeyRecord(own))
		keys.Active = own.ID()
	})
	for range 2 {
		_, _ = first.secretsKeeper().step(t.Context())
	}
	if _, holds := first.identity.SecretKey(own.ID()); holds {
		t.Error("the leader took a key from a host that does not vote")
	}
	key, _, err := first.store.Get(t.Context(), objects.KindFor[*corev1.Secret]().StoreKey(objects.Key{Namespace: "ns", Name: "a"}), localRead)
	if err != nil {
		t.Fatal(err)
	}
	with, err := first.secretsRecipient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if foreign, err := first.vault.IsCurrent(with, key.Expand()); foreign || err != nil {
		t.Errorf("the Secret is encrypted with the foreign key, %v", err)
	}
}
