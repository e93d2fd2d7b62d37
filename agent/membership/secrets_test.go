package membership

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/level"
	"virtmesh/agent/objects"
	"virtmesh/agent/sealed"
	"virtmesh/raftstore"
	"virtmesh/raftstore/raftstoretest"
)

func TestPlanSecrets(t *testing.T) {
	t.Parallel()
	now := level.Apart
	for name, c := range map[string]struct {
		view secretsView
		want secretsAct
	}{
		"an older mesh":                        {secretsView{level: now - 1, voter: true, leader: true}, nothingToSeal},
		"no key":                               {secretsView{level: now, voter: true, leader: true, surplus: true}, makeSecretKey},
		"no key, seen by another voter":        {secretsView{level: now, voter: true}, nothingToSeal},
		"a new key without a bundle":           {secretsView{level: now, voter: true, leader: true, listed: true, pending: true, unsealed: true}, nothingToSeal},
		"a new key and a bundle":               {secretsView{level: now, voter: true, leader: true, listed: true, pending: true, bundled: true, unsealed: true}, useSecretKey},
		"a new key that another voter made":    {secretsView{level: now, voter: true, listed: true, pending: true, missing: true}, fetchSecretKeys},
		"a new key that the leader lacks":      {secretsView{level: now, voter: true, leader: true, listed: true, pending: true, bundled: true, missing: true}, fetchSecretKeys},
		"an active key":                        {secretsView{level: now, voter: true, leader: true, listed: true, active: true, opens: true, unsealed: true}, sealObjects},
		"a lost new key, and Secrets in clear": {secretsView{level: now, voter: true, leader: true, listed: true, active: true, pending: true, missing: true, opens: true, unsealed: true}, sealObjects},
		"a lost old key, and Secrets in clear": {secretsView{level: now, voter: true, leader: true, listed: true, active: true, missing: true, unsealed: true}, fetchSecretKeys},
		"everything is encrypted":              {secretsView{level: now, voter: true, leader: true, listed: true, active: true}, nothingToSeal},
		"another key is asked for":             {secretsView{level: now, voter: true, leader: true, listed: true, active: true, rotate: true}, makeSecretKey},
		"another key, and older ones in use":   {secretsView{level: now, voter: true, leader: true, listed: true, active: true, pending: true, bundled: true, opens: true, unsealed: true}, sealObjects},
		"a voter with a key that is not used":  {secretsView{level: now, voter: true, listed: true, active: true, surplus: true}, dropSecretKeys},
		"the MeshConfig names other kinds":     {secretsView{level: now, voter: true, leader: true, listed: true, active: true, renamed: true, unsealed: true}, chooseKinds},
		"it names kinds before there is a key": {secretsView{level: now, voter: true, leader: true, renamed: true}, makeSecretKey},
		"a follower with a key":                {secretsView{level: now, listed: true, active: true, surplus: true}, dropSecretKeys},
		"a follower":                           {secretsView{level: now, listed: true, active: true, missing: true, unsealed: true}, nothingToSeal},
	} {
		if got := planSecrets(c.view); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// stepSecrets lets a host look after the keys for Secrets until it has made a move.
func stepSecrets(t *testing.T, m *Member, want secretsAct) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if act, err := m.secretsKeeper().step(t.Context()); act != want || err != nil {
			return fmt.Errorf("%s: %s, %v; want %s", m.config.Name, act, err, want)
		}
		return nil
	})
}

// makeBundle makes a recovery bundle on a voter, as the command does.
func makeBundle(t *testing.T, m *Member) identity.Bundle {
	t.Helper()
	bundle, err := m.KeyringBundle(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.KeyringBundleMade(t.Context(), requestOf(t, bundle)); err != nil {
		t.Fatal(err)
	}
	return bundle
}

// sealing is pair with a recovery bundle and a key that encrypts; host2 does not vote and holds
// no key.
func sealing(t *testing.T) (first, second *Member, bundle identity.Bundle) {
	t.Helper()
	first, second = pair(t)
	stepSecrets(t, first, makeSecretKey)
	stepSecrets(t, first, nothingToSeal)
	bundle = makeBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	sameCopy(t, first, second)
	return first, second, bundle
}

// sameCopy waits until a host has what another one has.
func sameCopy(t *testing.T, from, to *Member) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if want, have := from.store.Revision(), to.store.Revision(); have < want {
			return fmt.Errorf("%s is at revision %d, want %d", to.config.Name, have, want)
		}
		return nil
	})
}

// clearStore returns the store of a host as its API uses it.
func clearStore(m *Member) *objects.Replica { return objects.FromRaft(m.store, m.vault) }

func putSecret(t *testing.T, m *Member, name, password string) {
	t.Helper()
	var tx objects.Tx
	tx.Create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"app": "x"}, Annotations: map[string]string{
			corev1.LastAppliedConfigAnnotation: `{"data":{"password":"` + base64.StdEncoding.EncodeToString([]byte(password)) + `"}}`,
		}},
		Data: map[string][]byte{"password": []byte(password)}, Type: corev1.SecretTypeOpaque,
	})
	if _, err := tx.Commit(t.Context(), clearStore(m)); err != nil {
		t.Fatal(err)
	}
}

func readSecret(ctx context.Context, m *Member, name string) (string, error) {
	secret, err := objects.Get[*corev1.Secret](ctx, clearStore(m), objects.Key{Namespace: "ns", Name: name}, localRead)
	if err != nil {
		return "", err
	}
	return string(secret.Data["password"]), nil
}

func mustReadSecret(t *testing.T, m *Member, name, want string) {
	t.Helper()
	sameSecret := func() error {
		if got, err := readSecret(t.Context(), m, name); got != want || err != nil {
			return fmt.Errorf("%s reads %q, %v; want %q", m.config.Name, got, err, want)
		}
		return nil
	}
	raftstoretest.Eventually(t, sameSecret)
}

// Nobody but a voter gets the private keys.
func TestTheSecretKeysAreForVoters(t *testing.T) {
	t.Parallel()
	_, second, _ := sealing(t)
	if keys, err := second.voters.FetchSecretKeys(t.Context(), "host1"); !errors.Is(err, fault.Forbidden) || len(keys) > 0 {
		t.Errorf("host2 asks for the keys: %d, %v", len(keys), err)
	}
}

// What was sealed for one Secret cannot be read as another one, by any host.
func TestASealedValueIsOfOneObject(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	putSecret(t, first, "one", "the password of one")
	putSecret(t, first, "two", "the password of two")
	kind := objects.KindFor[*corev1.Secret]()
	key := func(name string) string { return kind.StoreKey(objects.Key{Namespace: "ns", Name: name}) }
	one, _, err := first.store.Get(t.Context(), key("one"), raftstore.ReadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.store.Commit(t.Context(), raftstore.Txn{Ops: []raftstore.Op{{Key: key("two"), Value: one.Expand().Value}}}); err != nil {
		t.Fatal(err)
	}
	sameCopy(t, first, second)
	for _, m := range []*Member{first, second} {
		if got, err := readSecret(t.Context(), m, "two"); err == nil || got != "" {
			t.Errorf("%s reads %q as the Secret two", m.config.Name, got)
		}
	}
}

// While no voter answers, a host that holds no key says so, and what helps: it shows neither
// what is encrypted nor a Secret without its data.
func TestNoVoterOpensASecret(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	putSecret(t, first, "a", "the password of a")
	sameCopy(t, first, second)
	shutdown(first)
	store := clearStore(second)
	_, getErr := readSecret(t.Context(), second, "a")
	_, _, listErr := objects.List[*corev1.Secret](t.Context(), store, "ns", localRead)
	_, _, scanErr := store.Scan(t.Context(), objects.KindFor[*corev1.Secret]().Prefix(), localRead)
	watch, err := store.Watch(t.Context(), raftstore.WatchRequest{Prefix: objects.KindFor[*corev1.Secret]().Prefix(), Revision: 1})
	if err != nil {
		t.Fatal(err)
	}
	if event, open := <-watch.Events(); open {
		t.Errorf("watched %s", event.Record.Value)
	}
	for how, err := range map[string]error{"get": getErr, "list": listErr, "scan": scanErr, "watch": watch.Err()} {
		if !errors.Is(err, fault.Unavailable) || !strings.Contains(fault.Of(err).Remedy, "virtmesh status") {
			t.Errorf("%s: %v", how, err)
		}
	}
}

// A rotation waits for a bundle with the new key. Then everything is encrypted with it, also
// what a host writes that does not know of the new key yet.
func TestRotateTheSecretKey(t *testing.T) {
	t.Parallel()
	first, second, old := sealing(t)
	putSecret(t, first, "a", "the password of a")
	stepSecrets(t, first, sealObjects)
	for range 2 {
		if err := second.RotateSecretKey(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stepSecrets(t, first, makeSecretKey)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, nothingToSeal)
	if status, err := first.keyringStatus(t.Context()); err != nil || !status.SecretsEncrypted || !status.SecretKeyWaits || !status.Bundle.Current {
		t.Errorf("the status while the new key waits: %+v, %v", status, err)
	}
	fresh := makeBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, sealObjects)
	stepSecrets(t, first, nothingToSeal)
	mustReadSecret(t, second, "a", "the password of a")

	sameCopy(t, first, second)
	if status, err := second.SecretKeys(t.Context()); err != nil || status.Current != 1 || status.Older+status.Clear > 0 || status.Waiting != "" {
		t.Errorf("how Secrets are stored: %+v, %v", status, err)
	}
	keys, err := old.OpenSecretKeys()
	if err != nil || len(fresh.SecretKeys) != 2 {
		t.Fatalf("%d keys in the new bundle, %v", len(fresh.SecretKeys), err)
	}
	with, err := second.secretsRecipient(t.Context())
	if err != nil || with.Key.ID() == keys[0].ID() {
		t.Errorf("host2 encrypts with %s, %v", with.Key.ID(), err)
	}
	all, err := first.store.List(t.Context(), raftstore.ListRequest{Prefix: objects.KindFor[*corev1.Secret]().Prefix()})
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range all.Records {
		if current, err := first.vault.IsCurrent(with, rec.Expand()); !current || err != nil {
			t.Errorf("%s is not encrypted with the new key, %v", rec.Key, err)
		}
	}
}

// A transaction that was encrypted with the key of before is encrypted again.
func TestAWriteWithAnOlderKeyIsRepeated(t *testing.T) {
	t.Parallel()
	first, _, _ := sealing(t)
	stale, err := first.secretsRecipient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	asked := 0
	vault, err := sealed.NewVault(sealed.Config{
		Recipient: func(ctx context.Context) (sealed.Recipient, error) {
			if asked++; asked == 1 {
				return stale, nil
			}
			return first.secretsRecipient(ctx)
		},
		Held: first.identity.SecretKey, Ask: first.voters.OpenLocks,
	})
	if err != nil {
		t.Fatal(err)
	}
	var tx objects.Tx
	tx.Create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Data: map[string][]byte{"password": []byte("x")}})
	if _, err := tx.Commit(t.Context(), objects.FromRaft(first.store, vault)); err != nil || asked != 2 {
		t.Errorf("sealed %d times, %v", asked, err)
	}
	mustReadSecret(t, first, "a", "x")
}

// When all voters are lost, a follower's copy and the bundle open the Secrets; without the
// bundle the recovery is refused and says what helps.
func TestRecoverSecretsWithABundle(t *testing.T) {
	t.Parallel()
	first, second, bundle := sealing(t)
	putSecret(t, first, "a", "the password of a")
	sameCopy(t, first, second)
	shutdown(first)
	shutdown(second)
	older := bundle
	older.SecretKeys = nil
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &older}); !errors.Is(err, fault.Conflict) || !strings.Contains(fault.Of(err).Remedy, "--keyring-bundle") {
		t.Fatalf("recovered without the key for Secrets: %v", err)
	}
	if _, err := Recover(t.Context(), second.config, Recovery{Bundle: &bundle}); err != nil {
		t.Fatal(err)
	}
	alone := boot(t, second.config)
	if err := alone.joinStore(t.Context()); err != nil {
		t.Fatal(err)
	}
	raftstoretest.WaitServing(t, alone.store)
	mustReadSecret(t, alone, "a", "the password of a")
}
