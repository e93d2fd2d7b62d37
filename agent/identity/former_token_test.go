package identity_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"virtmesh/agent/fault"
	"virtmesh/agent/identity"
)

// A join token of before the CA was replaced admits nobody: a machine that uses it has been given to
// by whoever has the key of the former CA, since no host shows that one. Those that were not used
// are revoked, and those of the new CA stay.
func TestTokensOfAFormerCA(t *testing.T) {
	r := newRotating(t)
	tokens := identity.NewTokens(r.Store)
	create := func() identity.Token {
		token, _, err := tokens.Create(t.Context(), time.Hour)
		r.must(err)
		return token
	}
	used, unused := create(), create()
	signer := r.voter()
	key := newKey(t)
	_, err := signer.Admit(t.Context(), candidate(used, key, "host2"))
	r.must(err)
	r.replace("one", time.Now().Add(time.Hour))
	r.follow()
	signer = r.voter()
	if _, err := signer.Admit(t.Context(), candidate(unused, newKey(t), "host3")); !errors.Is(err, fault.TokenInvalid) {
		t.Errorf("a machine joins with a token of the former CA: %v", err)
	}
	if _, err := signer.Admit(t.Context(), candidate(used, key, "host2")); err != nil {
		t.Errorf("a host whose answer was lost: %v", err)
	}
	fresh := create()
	if revoked, err := tokens.RevokeOthers(t.Context(), r.signing.Pin()); err != nil || !slices.Equal(revoked, []string{unused.ID}) {
		t.Errorf("revoked are %v, want %s: %v", revoked, unused.ID, err)
	}
	if _, err := signer.Admit(t.Context(), candidate(fresh, newKey(t), "host3")); err != nil {
		t.Errorf("a token of the new CA: %v", err)
	}
}
