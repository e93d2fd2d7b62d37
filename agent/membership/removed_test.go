package membership

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"virtmesh/agent/objects"
	"virtmesh/agent/port/admin"
)

// Who removed a host is told which Secrets it could read, and whether its key is worthless.
func TestWhatARemovalLeavesToDo(t *testing.T) {
	t.Parallel()
	path, config := newMachine(t, "host1")
	m := found(t, path, config)
	store := objects.FromRaft(m.store, nil)
	secret := &corev1.Secret{Data: map[string][]byte{"password": []byte("x")}}
	secret.Namespace, secret.Name = "default", "login"
	var tx objects.Tx
	tx.Create(secret)
	if _, err := tx.Commit(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	a := administration{Member: m, store: store}
	for _, keep := range []bool{false, true} {
		removed, err := a.removed(t.Context(), admin.Removal{Host: "host9", KeepKeys: keep})
		if err != nil || removed.KeysReplaced == keep || !slices.Equal(removed.Secrets, []string{"default/login"}) {
			t.Errorf("keep %v: %+v, %v", keep, removed, err)
		}
	}
}
