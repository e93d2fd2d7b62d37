package membership

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/kinds/meshv1alpha1"
	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"
)

func commitWith(t *testing.T, m *Member, change func(*objects.Tx)) {
	t.Helper()
	var tx objects.Tx
	change(&tx)
	if _, err := tx.Commit(t.Context(), clearStore(m)); err != nil {
		t.Fatal(err)
	}
}

func putConfigMap(t *testing.T, m *Member, name, value string) {
	t.Helper()
	commitWith(t, m, func(tx *objects.Tx) {
		tx.Create(&corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Data:       map[string]string{"value": value}, BinaryData: map[string][]byte{"bytes": []byte(value)},
		})
	})
}

// mustStoreConfigMap fails unless the stored form of a config map is encrypted or not, and both
// hosts read it.
func mustStoreConfigMap(t *testing.T, name, value string, encrypted bool, hosts ...*Member) {
	t.Helper()
	key := objects.Key{Namespace: "ns", Name: name}
	for _, m := range hosts {
		rec, _, err := m.store.Get(t.Context(), objects.KindFor[*corev1.ConfigMap]().StoreKey(key), localRead)
		if err != nil {
			t.Fatal(err)
		}
		stored := rec.Expand().Value
		if sealed.IsSealed(stored) != encrypted || showsPassword(stored, value) == encrypted {
			t.Errorf("%s stores the config map %s as %s; encrypted should be %t", m.config.Name, name, stored, encrypted)
		}
		got, err := objects.Get[*corev1.ConfigMap](t.Context(), clearStore(m), key, localRead)
		if err != nil || got.Data["value"] != value || string(got.BinaryData["bytes"]) != value {
			t.Errorf("%s reads the config map %s as %v, %v", m.config.Name, name, got, err)
		}
	}
}

// laggingVault returns the vault of a host whose copy of the record of the keys is an older one.
func laggingVault(t *testing.T, m *Member, stale sealed.Recipient) *sealed.Vault {
	t.Helper()
	vault, err := sealed.NewVault(sealed.Config{
		Recipient: func(context.Context) (sealed.Recipient, error) { return stale, nil },
		Held:      m.identity.SecretKey, Ask: m.voters.OpenLocks,
	})
	if err != nil {
		t.Fatal(err)
	}
	return vault
}

// The MeshConfig says whether config maps are encrypted: those that are there already, those
// that any host writes from then on, and back again.
func TestNamedKindsAreEncrypted(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	hosts := []*Member{first, second}
	settle := func() {
		t.Helper()
		stepSecrets(t, first, nothingToSeal)
		sameCopy(t, first, second)
	}
	stepSecrets(t, first, sealObjects)
	settle()
	putConfigMap(t, second, "before", "the value of before")
	settle()
	mustStoreConfigMap(t, "before", "the value of before", false, hosts...)
	if status, err := first.SecretKeys(t.Context()); err != nil || status.Clear != 0 {
		t.Errorf("config maps count as not encrypted yet although they are not to be: %+v, %v", status, err)
	}

	config := &meshv1alpha1.MeshConfig{ObjectMeta: metav1.ObjectMeta{Name: meshv1alpha1.Name}}
	config.Spec.Encryption = &meshv1alpha1.Encryption{Kinds: []string{"ConfigMap"}}
	commitWith(t, first, func(tx *objects.Tx) { tx.Create(config) })
	stale, err := second.secretsRecipient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, chooseKinds)
	stepSecrets(t, first, sealObjects) // encrypts
	stepSecrets(t, first, sealObjects) // finds nothing more
	settle()
	mustStoreConfigMap(t, "before", "the value of before", true, hosts...)
	putConfigMap(t, second, "after", "the value of after")
	settle()
	mustStoreConfigMap(t, "after", "the value of after", true, hosts...)
	if status, err := first.SecretKeys(t.Context()); err != nil || status.Clear != 0 || status.Current != 2 {
		t.Errorf("status %+v, %v; want two that are encrypted", status, err)
	}
	// A host that has not heard of it yet cannot store one in clear.
	writes := objects.FromRaft(second.store, laggingVault(t, second, stale))
	var tx objects.Tx
	tx.Create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "lagging"}, Data: map[string]string{"value": "of a host that lags"}})
	if _, err := tx.Commit(t.Context(), writes); err == nil {
		t.Error("a host that has not heard that config maps are encrypted stored one in clear")
	}

	stored, err := objects.Get[*meshv1alpha1.MeshConfig](t.Context(), clearStore(first), objects.Key{Name: meshv1alpha1.Name}, localRead)
	if err != nil {
		t.Fatal(err)
	}
	before := stored.DeepCopy()
	stored.Spec.Encryption = nil
	commitWith(t, first, func(tx *objects.Tx) { tx.Update(before, stored) })
	stepSecrets(t, first, chooseKinds)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, sealObjects)
	settle()
	mustStoreConfigMap(t, "before", "the value of before", false, hosts...)
	mustStoreConfigMap(t, "after", "the value of after", false, hosts...)
}
