package membership

import (
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"virtmesh/agent/bearer"
	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
	"virtmesh/agent/objects"
	"virtmesh/raftstore/raftstoretest"
)

// stepTokenKeys lets a host look after the keys that judge tokens until it has made a move.
func stepTokenKeys(t *testing.T, m *Member, want tokenKeysAct) {
	t.Helper()
	raftstoretest.Eventually(t, func() error {
		if act, err := m.tokenKeysKeeper().step(t.Context()); act != want || err != nil {
			return fmt.Errorf("%s: %s, %v; want %s", m.config.Name, act, err, want)
		}
		return nil
	})
}

// requestFor makes a service account and a Secret, and returns a request for the account's token,
// which ends with the Secret.
func requestFor(t *testing.T, m *Member) bearer.Request {
	t.Helper()
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "ci", UID: "u1"}}
	commitWith(t, m, func(tx *objects.Tx) { tx.Create(account) })
	putSecret(t, m, "bound", "x")
	secret, err := objects.GetMeta[*corev1.Secret](t.Context(), clearStore(m), objects.Key{Namespace: "ns", Name: "bound"}, localRead)
	if err != nil {
		t.Fatal(err)
	}
	return bearer.Request{
		Account:   bearer.Account{Namespace: "ns", ServiceAccount: bearer.Ref{Name: account.Name, UID: string(account.UID)}, Secret: &bearer.Ref{Name: secret.Name, UID: string(secret.UID)}},
		Audiences: []string{m.TokenIssuer()}, Lifetime: time.Hour,
	}
}

// judgeToken judges a token as a host does.
func judgeToken(t *testing.T, m *Member, token string) error {
	t.Helper()
	keys, _, err := identity.ReadTokenKeys(t.Context(), m.store, localRead)
	if err != nil {
		t.Fatal(err)
	}
	_, err = bearer.Verify(token, m.TokenIssuer(), keys, time.Now())
	return err
}

// A host that does not vote gets tokens from a voter, and every host accepts them. The voter signs
// for an account and a Secret that are there, whoever asks.
func TestHostsGetTokensFromVoters(t *testing.T) {
	t.Parallel()
	first, second, _ := sealing(t)
	stepTokenKeys(t, first, publishTokenKeys)
	stepTokenKeys(t, first, noTokenKeys)
	request := requestFor(t, first)
	sameCopy(t, first, second)
	stepTokenKeys(t, second, noTokenKeys)
	if _, err := second.signTokenHere(t.Context(), request); !errors.Is(err, fault.Unavailable) {
		t.Errorf("host2 signs itself: %v", err)
	}
	for _, asked := range []*Member{first, second} {
		signed, err := asked.SignToken(t.Context(), request)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*Member{first, second} {
			if err := judgeToken(t, m, signed.Token); err != nil {
				t.Errorf("%s judges a token of %s: %v", m.config.Name, asked.config.Name, err)
			}
		}
	}
	for name, spoil := range map[string]func(*bearer.Request){
		"another account of the name": func(r *bearer.Request) { r.Account.ServiceAccount.UID = "u0" },
		"no account":                  func(r *bearer.Request) { r.Account.ServiceAccount.Name = "nobody" },
		"another Secret of the name":  func(r *bearer.Request) { r.Account.Secret = &bearer.Ref{Name: "bound", UID: "u0"} },
		"for a year":                  func(r *bearer.Request) { r.Lifetime = 365 * 24 * time.Hour },
	} {
		wrong := request
		spoil(&wrong)
		if signed, err := second.SignToken(t.Context(), wrong); !errors.Is(err, fault.Invalid) || signed.Token != "" {
			t.Errorf("%s: %v, want %s", name, err, fault.Invalid)
		}
	}
}

// Who replaces the key for Secrets replaces the key that signs tokens: what the old one has signed,
// or somebody signs who knows it, is accepted until the new key is in use, and no longer.
func TestTokensEndWithTheKeyForSecrets(t *testing.T) {
	t.Parallel()
	first, _, _ := sealing(t)
	stepTokenKeys(t, first, publishTokenKeys)
	request := requestFor(t, first)
	before, err := first.SignToken(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, sealObjects)
	if err := first.RotateSecretKey(t.Context()); err != nil {
		t.Fatal(err)
	}
	stepSecrets(t, first, makeSecretKey)
	stepTokenKeys(t, first, publishTokenKeys)
	if err := judgeToken(t, first, before.Token); err != nil {
		t.Errorf("while the new key waits: %v", err)
	}
	makeBundle(t, first)
	stepSecrets(t, first, useSecretKey)
	stepTokenKeys(t, first, publishTokenKeys)
	if err := judgeToken(t, first, before.Token); !errors.Is(err, bearer.ErrForeign) {
		t.Errorf("once the new key is in use: %v", err)
	}
	after, err := first.SignToken(t.Context(), request)
	if err != nil || judgeToken(t, first, after.Token) != nil {
		t.Errorf("a new token: %v, %v", err, judgeToken(t, first, after.Token))
	}
}
